//! Kernels compiled at first use: source + defines + architecture -> cubin, through NVRTC and a cache on disk.

use std::ffi::{CStr, CString, c_char};

use cudarc::nvrtc::sys as nvrtc;

use super::cache;
use super::error::{CudaError, CudaResult};
use super::{library, source};

/// The `-D` options of one variant, in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Defines(Vec<(&'static str, i64)>);

impl Defines {
    /// The given names and values.
    pub fn new(pairs: &[(&'static str, i64)]) -> Self {
        let mut pairs = pairs.to_vec();
        pairs.sort_unstable();
        Self(pairs)
    }

    /// The value of a name that is there.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    fn options(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("-D{name}={value}")).collect()
    }
}

impl std::fmt::Display for Defines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.options().join(" "))
    }
}

/// A compiled variant: an image for the driver and the assembler's resource report.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The cubin.
    pub image: Vec<u8>,
    /// What `--ptxas-options=-v` said; empty for an image from the cache.
    pub log: String,
}

/// What one kernel of a variant uses, from the assembler's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub entry: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of registers spilled to local memory, stores and loads.
    pub spill_bytes: u32,
    /// Bytes of static shared memory.
    pub shared_bytes: u32,
}

/// The compiler's version.
pub fn version() -> CudaResult<(i32, i32)> {
    library::toolkit()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: NVRTC is loaded; both pointers are valid for the call.
    unsafe { nvrtc::nvrtcVersion(&mut major, &mut minor) };
    Ok((major, minor))
}

/// The image of a variant, from the cache or compiled and put there.
pub fn cubin(file: &str, defines: &Defines, arch: &str) -> CudaResult<Vec<u8>> {
    let key = cache::key(file, defines, arch, version()?)?;
    if let Some(image) = cache::read(&key) {
        return Ok(image);
    }
    let image = compile(file, defines, arch)?.image;
    cache::write(&key, &image);
    Ok(image)
}

/// Compiles a variant, with its resource report. Needs NVRTC, not a GPU.
pub fn compile(file: &str, defines: &Defines, arch: &str) -> CudaResult<Compiled> {
    let toolkit = library::toolkit()?;
    let text = c_string(&source::text(file)?);
    let headers = source::headers()?;
    let header_texts: Vec<CString> = headers.iter().map(|(_, text)| c_string(text)).collect();
    let header_names: Vec<CString> = headers.iter().map(|(name, _)| c_string(name)).collect();
    let mut options =
        vec![format!("-arch={arch}"), "--std=c++17".into(), "-default-device".into(), "--ptxas-options=-v".into()];
    options.extend(toolkit.include.iter().map(|d| format!("-I{}", d.display())));
    options.extend(defines.options());
    let options: Vec<CString> = options.iter().map(|o| c_string(o)).collect();
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
    let (texts, names, options) = (pointers(&header_texts), pointers(&header_names), pointers(&options));
    let name = c_string(file);
    // SAFETY: NVRTC is loaded; every pointer is to a C string or an array that outlives the calls, with its length.
    unsafe {
        let mut program = std::ptr::null_mut();
        let made = nvrtc::nvrtcCreateProgram(
            &mut program,
            text.as_ptr(),
            name.as_ptr(),
            texts.len() as i32,
            texts.as_ptr(),
            names.as_ptr(),
        );
        if made != nvrtc::nvrtcResult::NVRTC_SUCCESS {
            return Err(failed(file, defines, arch, format!("{made:?}")));
        }
        let result = nvrtc::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr());
        let mut size = 0;
        nvrtc::nvrtcGetProgramLogSize(program, &mut size);
        let mut log = vec![0u8; size + 1];
        nvrtc::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        let log = CStr::from_bytes_until_nul(&log).map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
        let mut image = Vec::new();
        if result == nvrtc::nvrtcResult::NVRTC_SUCCESS {
            nvrtc::nvrtcGetCUBINSize(program, &mut size);
            image = vec![0u8; size];
            nvrtc::nvrtcGetCUBIN(program, image.as_mut_ptr().cast());
        }
        nvrtc::nvrtcDestroyProgram(&mut program);
        if image.is_empty() { Err(failed(file, defines, arch, log)) } else { Ok(Compiled { image, log }) }
    }
}

fn failed(file: &str, defines: &Defines, arch: &str, log: String) -> CudaError {
    CudaError::Compile { source_file: file.into(), arch: arch.into(), defines: defines.to_string(), log }
}

/// Sources, names and options hold no zero byte; should one, what follows it is cut off and does not compile.
fn c_string(s: &str) -> CString {
    CString::new(s.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// The kernels of a report.
pub fn resources(log: &str) -> Vec<Resources> {
    let number = |text: &str, before: &str| -> u32 {
        let head = text.split(before).next().unwrap_or_default();
        head.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let sections = log.split("Function properties for ").skip(1);
    sections
        .map(|section| {
            let line = |word: &str| section.lines().find(|l| l.contains(word)).unwrap_or_default();
            let (spills, used) = (line("bytes spill stores"), line("Used"));
            Resources {
                entry: section.split_whitespace().next().unwrap_or_default().to_string(),
                registers: number(used, " registers"),
                spill_bytes: number(spills, " bytes spill stores") + number(spills, " bytes spill loads"),
                shared_bytes: if used.contains(" bytes smem") { number(used, " bytes smem") } else { 0 },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let log = "ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function 'a' for 'sm_90a'\n\
                   ptxas info    : Function properties for a\n    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 78 registers, used 1 barriers, 128 bytes smem\n\
                   ptxas info    : Function properties for b\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 24 registers, used 0 barriers\n";
        let of = |entry: &str, registers, spill_bytes, shared_bytes| Resources {
            entry: entry.into(),
            registers,
            spill_bytes,
            shared_bytes,
        };
        assert_eq!(resources(log), [of("a", 78, 16, 128), of("b", 24, 0, 0)]);
    }

    #[test]
    fn defines_are_ordered() {
        assert_eq!(Defines::new(&[("W", 4), ("DTYPE", 1)]).to_string(), "-DDTYPE=1 -DW=4");
    }
}

//! Finding CUDA's libraries and headers, without LD_LIBRARY_PATH and without a toolkit at build time.
//!
//! A library loaded by its absolute path is found afterwards by its bare name, which is how cudarc asks for it. Searched in
//! order: CUDA_LIBRARY_DIR, the wheels of VIRTUAL_ENV or of the python3 in PATH, CUDA_HOME, /usr/local/cuda, the system.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::{CudaError, CudaResult};

/// The run-time compiler's headers, found once per process with the compiler loaded.
#[derive(Debug)]
pub(super) struct Toolkit {
    /// Folders for `-I`.
    pub(super) include: Vec<PathBuf>,
}

/// Whether the CUDA driver loads: to be asked before any call of it.
pub fn driver_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: loads libcuda.so.1, whose initialisers have no preconditions.
    *PRESENT.get_or_init(|| unsafe { cudarc::driver::sys::is_culib_present() })
}

/// Loads NVRTC and finds its headers.
pub(super) fn toolkit() -> CudaResult<&'static Toolkit> {
    static FOUND: OnceLock<Toolkit> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let roots = roots();
    // The compiler opens its builtins by name, so they are loaded first; a toolkit in the system's path does without.
    let _ = load(&roots, "libnvrtc-builtins.so.13.0");
    load(&roots, "libnvrtc.so.13")?;
    let include = include(&roots)?;
    Ok(FOUND.get_or_init(|| Toolkit { include }))
}

/// Loads cuBLAS and cuBLASLt where they are present.
pub fn load_cublas() -> CudaResult<()> {
    let roots = roots();
    load(&roots, "libcublasLt.so.13")?;
    load(&roots, "libcublas.so.13")
}

/// Folders that may hold `lib` or `lib64` and `include`.
fn roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    let python = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|p| p.join("python3")).find(|p| p.is_file()))
        .and_then(|p| p.parent().and_then(Path::parent).map(Path::to_path_buf));
    for base in std::env::var_os("VIRTUAL_ENV").map(PathBuf::from).into_iter().chain(python) {
        for lib in std::fs::read_dir(base.join("lib")).into_iter().flatten().flatten() {
            for packages in ["site-packages", "dist-packages"] {
                roots.push(lib.path().join(packages).join("nvidia/cu13"));
            }
        }
    }
    roots.extend(std::env::var_os("CUDA_HOME").map(PathBuf::from));
    roots.extend(
        ["/usr/local/cuda", "/usr/local/cuda-13.0", "/usr/local/cuda/targets/x86_64-linux", "/usr"].map(PathBuf::from),
    );
    roots
}

fn library_folders(roots: &[PathBuf]) -> Vec<PathBuf> {
    let given =
        std::env::var_os("CUDA_LIBRARY_DIR").map(|v| std::env::split_paths(&v).collect::<Vec<_>>()).unwrap_or_default();
    let below = roots.iter().flat_map(|r| ["lib", "lib64", "lib/x86_64-linux-gnu"].map(|d| r.join(d)));
    given.into_iter().chain(below).collect()
}

fn load(roots: &[PathBuf], name: &'static str) -> CudaResult<()> {
    let folders = library_folders(roots);
    let absolute = folders.iter().map(|d| d.join(name)).filter(|p| p.is_file());
    for path in absolute.chain([PathBuf::from(name)]) {
        // SAFETY: a CUDA library; its initialisers have no preconditions.
        if let Ok(library) = unsafe { libloading::Library::new(&path) } {
            // Kept loaded for the life of the process, so that the bare name finds it.
            std::mem::forget(library);
            return Ok(());
        }
    }
    Err(CudaError::NoCompiler { library: name, searched: list(&folders) })
}

fn include(roots: &[PathBuf]) -> CudaResult<Vec<PathBuf>> {
    let given =
        std::env::var_os("CUDA_INCLUDE_DIR").map(|v| std::env::split_paths(&v).collect::<Vec<_>>()).unwrap_or_default();
    let folders: Vec<PathBuf> = given.into_iter().chain(roots.iter().map(|r| r.join("include"))).collect();
    let found = folders
        .iter()
        .find(|d| d.join("cuda_bf16.h").is_file())
        .ok_or_else(|| CudaError::NoHeaders { searched: list(&folders) })?;
    Ok(vec![found.clone(), found.join("cccl")])
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().filter(|d| d.is_dir()).map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ")
}

//! Matrix products through cuBLASLt: `out = op(a) op(b) (+ c) (+ bias)`, row-major, fp32 accumulation.
//!
//! Products in bf16 may write fp32 (gradients of weights); products in fp32 do not round to tf32. The algorithm of a shape is
//! looked up once and kept. One stream, one workspace and no split over atomics: two runs give the same bits.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayout_t, cudaDataType,
};
use cudarc::cublaslt::{result as lt, sys};

use super::device::Device;
use super::error::{CudaError, CudaResult};
use super::library;
use super::memory::{Dtype, Memory, Tensor};
use crate::error::Error;

/// Bytes that an algorithm may use beside its operands.
const WORKSPACE: usize = 32 << 20;

/// A matrix, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// The matrix as it lies in memory.
    pub matrix: &'a Tensor,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

impl<'a> Operand<'a> {
    /// The matrix itself.
    pub fn plain(matrix: &'a Tensor) -> Self {
        Self { matrix, transposed: false }
    }

    /// Its transpose.
    pub fn transposed(matrix: &'a Tensor) -> Self {
        Self { matrix, transposed: true }
    }

    fn shape(&self) -> (usize, usize) {
        let (rows, cols) = (self.matrix.rows, self.matrix.cols);
        if self.transposed { (cols, rows) } else { (rows, cols) }
    }
}

/// cuBLASLt on one device: a handle, a workspace, and the plans made so far.
pub struct Matmul {
    handle: cublasLtHandle_t,
    workspace: Tensor,
    plans: Mutex<HashMap<Key, Plan>>,
}

// SAFETY: the library's handle may be used from any thread; the descriptors of a plan are only read once made.
unsafe impl Send for Matmul {}

impl std::fmt::Debug for Matmul {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Matmul")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Rows and columns of the result, and the length of the sums.
    shape: (usize, usize, usize),
    transposed: (bool, bool),
    strides: (usize, usize, usize, usize),
    alignments: (usize, usize, usize, usize),
    types: (Dtype, Dtype),
    accumulate: bool,
    bias: bool,
}

struct Plan {
    desc: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    c: cublasLtMatrixLayout_t,
    d: cublasLtMatrixLayout_t,
    algo: cublasLtMatmulAlgo_t,
}

impl Matmul {
    /// Loads the library and makes a handle.
    ///
    /// # Errors
    /// [`CudaError::NoCompiler`] where libcublasLt is not there.
    pub fn new(device: &Device) -> CudaResult<Self> {
        library::load_cublas()?;
        let memory = Memory::new(device, WORKSPACE)?;
        let workspace = Tensor::new(&memory, 0, 1, WORKSPACE / 4, WORKSPACE / 4, Dtype::F32)?;
        let handle = lt::create_handle().map_err(failed("create handle"))?;
        Ok(Self { handle, workspace, plans: Mutex::default() })
    }

    /// `out = a b`, plus `add` (which may be `out` itself) and plus `bias` (one row, in the type of `out`) where given.
    ///
    /// # Errors
    /// [`Error::Argument`] if shapes or types do not fit; the library's.
    pub fn run(
        &self,
        device: &Device,
        a: Operand<'_>,
        b: Operand<'_>,
        out: &Tensor,
        add: Option<&Tensor>,
        bias: Option<&Tensor>,
    ) -> CudaResult<()> {
        let ((m, k), (kb, n)) = (a.shape(), b.shape());
        let fits = k == kb && (out.rows, out.cols) == (m, n) && add.is_none_or(|c| (c.rows, c.cols) == (m, n));
        let types = a.matrix.dtype == b.matrix.dtype && add.is_none_or(|c| c.dtype == out.dtype);
        if !fits || !types || bias.is_some_and(|v| v.cols != n || v.dtype != out.dtype) {
            let what = format!("[{m}, {k}] {:?} by [{kb}, {n}] {:?} into {out:?}", a.matrix.dtype, b.matrix.dtype);
            let remedy = "give operands of one type whose inner sizes agree";
            return Err(CudaError::Argument(Error::Argument { op: "matmul", what, remedy }));
        }
        let c = add.unwrap_or(out);
        let key = Key {
            shape: (m, n, k),
            transposed: (a.transposed, b.transposed),
            strides: (a.matrix.stride, b.matrix.stride, c.stride, out.stride),
            alignments: (a.matrix.alignment(), b.matrix.alignment(), c.alignment(), out.alignment()),
            types: (a.matrix.dtype, out.dtype),
            accumulate: add.is_some(),
            bias: bias.is_some(),
        };
        let mut plans = self.plans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => empty.insert(self.plan(&key)?),
        };
        let (alpha, beta) = (1.0f32, if add.is_some() { 1.0f32 } else { 0.0 });
        device.bind()?;
        // SAFETY: the plan's descriptors are alive and were made for these shapes; every matrix lies inside of an allocation
        // that it keeps alive, and so does the workspace. Row-major operands are passed as their column-major transposes.
        unsafe {
            if let Some(bias) = bias {
                let at = bias.address();
                set(plan.desc, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at)?;
            }
            lt::matmul(
                self.handle,
                plan.desc,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                b.matrix.address() as *const c_void,
                plan.b,
                a.matrix.address() as *const c_void,
                plan.a,
                c.address() as *const c_void,
                plan.c,
                out.address() as *mut c_void,
                plan.d,
                &plan.algo,
                self.workspace.address() as *mut c_void,
                WORKSPACE,
                device.stream().cu_stream().cast(),
            )
        }
        .map_err(failed("matmul"))
    }

    fn plan(&self, key: &Key) -> CudaResult<Plan> {
        let (m, n, k) = key.shape;
        let layout = |dtype: Dtype, transposed: bool, (rows, cols): (usize, usize), stride: usize| {
            // As it lies in memory, and then column-major: rows are columns.
            let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
            let stride = stride.max(cols).max(1) as i64;
            lt::create_matrix_layout(data_type(dtype)?, cols as u64, rows as u64, stride).map_err(failed("layout"))
        };
        let desc = lt::create_matmul_desc(cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F)
            .map_err(failed("descriptor"))?;
        // cublasOperation_t: 0 plain, 1 transposed.
        let op = i32::from;
        // SAFETY: the descriptor is alive; each attribute is given a value of its own type.
        unsafe {
            set(desc, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &op(key.transposed.1))?;
            set(desc, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &op(key.transposed.0))?;
            if key.bias {
                set(desc, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
            }
        }
        let a = layout(key.types.0, key.transposed.0, (m, k), key.strides.0)?;
        let b = layout(key.types.0, key.transposed.1, (k, n), key.strides.1)?;
        let c = layout(key.types.1, false, (m, n), key.strides.2)?;
        let d = layout(key.types.1, false, (m, n), key.strides.3)?;
        let preference = lt::create_matmul_pref().map_err(failed("preference"))?;
        let prefer = |name, value: &[u8]| {
            // SAFETY: the preference is alive, and the value has the attribute's size.
            unsafe { lt::set_matmul_pref_attribute(preference, name, value.as_ptr().cast(), value.len()) }
                .map_err(failed("preference"))
        };
        prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE.to_ne_bytes())?;
        let aligned = key.alignments;
        for (name, bytes) in [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned.1),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned.0),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned.2),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned.3),
        ] {
            prefer(name, &(bytes as u32).to_ne_bytes())?;
        }
        // No reduction in place over atomics: sums of split products go through the workspace, in order.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        prefer(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes.to_ne_bytes())?;
        // SAFETY: every descriptor is alive.
        let found = unsafe { lt::get_matmul_algo_heuristic(self.handle, desc, b, a, c, d, preference) };
        // SAFETY: made above, destroyed once.
        unsafe { lt::destroy_matmul_pref(preference) }.map_err(failed("preference"))?;
        let algo = found.map_err(failed("no algorithm for this product"))?.algo;
        Ok(Plan { desc, a, b, c, d, algo })
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        let plans = self.plans.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        for plan in plans.values() {
            // SAFETY: each was made once and is destroyed once; nothing uses them any more. A failure leaks, no more.
            unsafe {
                for layout in [plan.a, plan.b, plan.c, plan.d] {
                    let _ = lt::destroy_matrix_layout(layout);
                }
                let _ = lt::destroy_matmul_desc(plan.desc);
            }
        }
        // SAFETY: as above.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

/// # Safety
/// The descriptor is alive and `value` is of the attribute's type.
unsafe fn set<T>(desc: cublasLtMatmulDesc_t, name: Attribute, value: &T) -> CudaResult<()> {
    // SAFETY: by the caller.
    unsafe { lt::set_matmul_desc_attribute(desc, name, std::ptr::from_ref(value).cast(), size_of::<T>()) }
        .map_err(failed("descriptor"))
}

fn data_type(dtype: Dtype) -> CudaResult<cudaDataType> {
    match dtype {
        Dtype::F32 => Ok(cudaDataType::CUDA_R_32F),
        Dtype::Bf16 => Ok(cudaDataType::CUDA_R_16BF),
        Dtype::U32 | Dtype::F64 => {
            let what = format!("a product of {dtype:?}");
            Err(CudaError::Argument(Error::Argument { op: "matmul", what, remedy: "multiply f32 or bf16" }))
        }
    }
}

fn failed(what: &'static str) -> impl Fn(lt::CublasError) -> CudaError {
    move |e| CudaError::Driver { what, error: format!("cuBLASLt: {:?}", e.0) }
}

//! What the library is asked, and what it proposes.

use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t, cudaDataType,
};
use cudarc::cublaslt::{result as lt, sys};

use super::{Matmul, PROPOSALS, WORKSPACE, failed};
use crate::cuda::error::{CudaError, CudaResult};
use crate::cuda::memory::Dtype;
use crate::error::Error;

/// What tells one product's plan from another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Rows and columns of the result, and the length of the sums.
    pub(super) shape: (usize, usize, usize),
    pub(super) transposed: (bool, bool),
    pub(super) strides: (usize, usize, usize, usize),
    pub(super) alignments: (usize, usize, usize, usize),
    pub(super) types: (Dtype, Dtype),
    pub(super) accumulate: bool,
    pub(super) bias: bool,
}

/// A product's descriptors and algorithm. Row-major operands are their column-major transposes: a and b change places.
pub(super) struct Plan {
    pub(super) desc: cublasLtMatmulDesc_t,
    pub(super) a: cublasLtMatrixLayout_t,
    pub(super) b: cublasLtMatrixLayout_t,
    pub(super) c: cublasLtMatrixLayout_t,
    pub(super) d: cublasLtMatrixLayout_t,
    pub(super) algo: cublasLtMatmulAlgo_t,
}

impl Key {
    /// As in `choices.csv`.
    pub(super) fn line(&self) -> String {
        let (m, n, k) = self.shape;
        let (ta, tb) = (u8::from(self.transposed.0), u8::from(self.transposed.1));
        format!("{m},{n},{k},{ta},{tb},{:?},{:?},{}", self.types.0, self.types.1, u8::from(self.accumulate))
    }
}

impl Plan {
    /// Gives the descriptors back; the plan is not used after.
    pub(super) fn destroy(&self) {
        // SAFETY: each was made once, and every plan is destroyed once. A failure leaks, no more.
        unsafe {
            for layout in [self.a, self.b, self.c, self.d] {
                let _ = lt::destroy_matrix_layout(layout);
            }
            let _ = lt::destroy_matmul_desc(self.desc);
        }
    }
}

impl Matmul {
    /// The library's proposals, the likeliest first.
    pub(super) fn proposals(&self, key: &Key) -> CudaResult<Vec<Plan>> {
        let (m, n, k) = key.shape;
        let layout = |dtype: Dtype, transposed: bool, (rows, cols): (usize, usize), stride: usize| {
            // As it lies in memory, and then column-major: rows are columns.
            let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
            let stride = stride.max(cols).max(1) as i64;
            lt::create_matrix_layout(data_type(dtype)?, cols as u64, rows as u64, stride).map_err(failed("layout"))
        };
        let describe = || {
            let desc = lt::create_matmul_desc(cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F)
                .map_err(failed("descriptor"))?;
            // SAFETY: the descriptor is alive; each attribute is given a value of its own type (an operation is an i32, 1 for a
            // transpose).
            unsafe {
                set(desc, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(key.transposed.1))?;
                set(desc, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(key.transposed.0))?;
                if key.bias {
                    set(desc, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
                }
            }
            let a = layout(key.types.0, key.transposed.0, (m, k), key.strides.0)?;
            let b = layout(key.types.0, key.transposed.1, (k, n), key.strides.1)?;
            let c = layout(key.types.1, false, (m, n), key.strides.2)?;
            let d = layout(key.types.1, false, (m, n), key.strides.3)?;
            // SAFETY: an array of numbers, replaced by a proposal's.
            let algo = unsafe { std::mem::zeroed::<cublasLtMatmulAlgo_t>() };
            Ok::<_, CudaError>(Plan { desc, a, b, c, d, algo })
        };
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
        let first = describe()?;
        // SAFETY: numbers and a status whose 0 is success; the library writes those it counts.
        let mut found = vec![unsafe { std::mem::zeroed::<cublasLtMatmulHeuristicResult_t>() }; PROPOSALS];
        let mut count = 0;
        // SAFETY: every descriptor is alive; there is room for as many proposals as are asked for.
        let result = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                first.desc,
                first.b,
                first.a,
                first.c,
                first.d,
                preference,
                PROPOSALS as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        // SAFETY: made above, destroyed once.
        unsafe { lt::destroy_matmul_pref(preference) }.map_err(failed("preference"))?;
        first.destroy();
        result.result().map_err(failed("no algorithm for this product"))?;
        let proposals = found.iter().take(count.max(0) as usize).filter(|f| f.state.result().is_ok());
        proposals.map(|f| Ok(Plan { algo: f.algo, ..describe()? })).collect()
    }
}

/// # Safety
/// The descriptor is alive and `value` is of the attribute's type.
pub(super) unsafe fn set<T>(desc: cublasLtMatmulDesc_t, name: Attribute, value: &T) -> CudaResult<()> {
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

//! Device memory by the block, and the matrices in it that the ops of a training step work on.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};

use super::device::Device;
use super::error::{CudaError, CudaResult, driver};

/// What a matrix's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// The upper half of a single.
    Bf16,
    /// Ids, labels, counts; negative numbers in two's complement.
    U32,
    /// IEEE double: partial sums.
    F64,
}

impl Dtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// One allocation.
#[derive(Debug)]
pub struct Memory {
    bytes: CudaSlice<u8>,
    at: u64,
}

impl Memory {
    /// Zeroed memory, at a multiple of 256 bytes.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] where the device has not so much left.
    pub fn new(device: &Device, bytes: usize) -> CudaResult<Arc<Self>> {
        let bytes = device.zeros::<u8>(bytes)?;
        let at = bytes.device_ptr(device.stream()).0;
        Ok(Arc::new(Self { bytes, at }))
    }

    /// Its size.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A row-major matrix somewhere in a [`Memory`], which it keeps alive.
///
/// Matrices may overlap: ops queue on one stream and run in order, and which of them read and write what is for their caller
/// to plan.
#[derive(Debug, Clone)]
pub struct Tensor {
    memory: Arc<Memory>,
    at: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Element type.
    pub dtype: Dtype,
}

impl Tensor {
    /// The matrix that starts `at` bytes into `memory`.
    ///
    /// # Errors
    /// [`crate::Error::Size`] if it does not lie inside; [`crate::Error::Argument`] if its elements are not aligned.
    pub fn new(
        memory: &Arc<Memory>,
        at: usize,
        rows: usize,
        cols: usize,
        stride: usize,
        dtype: Dtype,
    ) -> CudaResult<Self> {
        let elements = if rows == 0 { 0 } else { (rows - 1) * stride + cols };
        let end = at + elements * dtype.bytes();
        if end > memory.len() {
            return Err(CudaError::Argument(crate::Error::Size {
                op: "tensor",
                name: "memory",
                found: memory.len(),
                expected: end,
                shape: format!("[{rows}, {cols}] every {stride} {dtype:?} from byte {at}"),
            }));
        }
        if !at.is_multiple_of(dtype.bytes()) || stride < cols {
            let what = format!("[{rows}, {cols}] every {stride} {dtype:?} from byte {at}");
            let remedy = "start at a whole element and give a stride of at least the columns";
            return Err(CudaError::Argument(crate::Error::Argument { op: "tensor", what, remedy }));
        }
        Ok(Self { memory: memory.clone(), at, rows, cols, stride, dtype })
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Its columns `from..from + cols`.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn columns(&self, from: usize, cols: usize) -> CudaResult<Self> {
        Self::new(&self.memory, self.at + from * self.dtype.bytes(), self.rows, cols, self.stride, self.dtype)
    }

    pub(crate) fn address(&self) -> u64 {
        self.memory.at + self.at as u64
    }

    /// Elements from the first to the last.
    pub(crate) fn span(&self) -> usize {
        if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + self.cols }
    }

    /// Bytes, up to 16, that every row starts at a multiple of.
    pub(crate) fn alignment(&self) -> usize {
        let stride = if self.rows > 1 { self.stride * self.dtype.bytes() } else { 0 };
        1 << (self.address() as usize | stride | 16).trailing_zeros()
    }

    /// Runs `f` on the elements from the first to the last as a cudarc slice.
    ///
    /// # Safety
    /// T is the element type; what `f` queues may overlap other matrices only as its caller planned.
    pub(crate) unsafe fn slice<T: DeviceRepr>(&self, device: &Device) -> Alias<T> {
        // SAFETY: the address and length lie inside of an allocation of this device; `Alias` never frees it.
        Alias(ManuallyDrop::new(unsafe { device.stream().upgrade_device_ptr(self.address(), self.span()) }))
    }

    /// Copies values to the device, before anything queued later runs.
    ///
    /// # Errors
    /// [`crate::Error::Size`] if there are not `rows * cols` of them or the rows are not adjacent.
    pub fn write<T: DeviceRepr>(&self, device: &Device, values: &[T]) -> CudaResult<()> {
        self.check_host::<T>(values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the sizes were checked; any bytes are values of these types.
        let mut slice = unsafe { self.slice::<T>(device) };
        device.stream().memcpy_htod(values, &mut *slice.0).map_err(driver("copy to device"))
    }

    /// Waits for what is queued and copies the values to the host.
    ///
    /// # Errors
    /// As [`Tensor::write`]; errors of earlier kernels come out here.
    pub fn read<T: DeviceRepr + Default + Clone>(&self, device: &Device) -> CudaResult<Vec<T>> {
        let mut values = vec![T::default(); self.rows * self.cols];
        self.check_host::<T>(values.len())?;
        // SAFETY: as in `write`.
        let slice = unsafe { self.slice::<T>(device) };
        device.stream().memcpy_dtoh(&*slice.0, &mut values).map_err(driver("copy to host"))?;
        device.synchronize()?;
        Ok(values)
    }

    /// The values as f32, whatever rows lie between; waits as [`Tensor::read`] does.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn read_f32(&self, device: &Device) -> CudaResult<Vec<f32>> {
        let whole = Self { rows: 1, cols: self.span(), stride: self.span(), ..self.clone() };
        let flat: Vec<f32> = match self.dtype {
            Dtype::Bf16 => whole.read::<half::bf16>(device)?.into_iter().map(half::bf16::to_f32).collect(),
            Dtype::F32 => whole.read::<f32>(device)?,
            Dtype::U32 => whole.read::<u32>(device)?.into_iter().map(|v| v as f32).collect(),
            Dtype::F64 => whole.read::<f64>(device)?.into_iter().map(|v| v as f32).collect(),
        };
        let rows = flat.chunks(self.stride.max(1)).flat_map(|row| row[..self.cols.min(row.len())].iter().copied());
        Ok(rows.collect())
    }

    /// Queues zeros over every byte from the first element to the last.
    ///
    /// # Errors
    /// The driver's.
    pub fn zero(&self, device: &Device) -> CudaResult<()> {
        let bytes = Self { rows: 1, cols: self.span(), ..self.clone() };
        let whole = bytes.span() * self.dtype.bytes();
        // SAFETY: the bytes lie inside of the allocation.
        let mut slice =
            Alias::<u8>(ManuallyDrop::new(unsafe { device.stream().upgrade_device_ptr(self.address(), whole) }));
        device.stream().memset_zeros(&mut *slice.0).map_err(driver("zero"))
    }

    /// Fills it, from the first element to the last, with small numbers of either sign: for timing.
    pub(crate) fn write_pattern(&self, device: &Device) -> CudaResult<()> {
        let value = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 16) % 2048) as f32 / 2048.0 - 0.5;
        let pattern: Vec<f32> = (0..self.span().min(1 << 24)).map(value).collect();
        let narrow: Vec<half::bf16> = pattern.iter().map(|&v| half::bf16::from_f32(v)).collect();
        for from in (0..self.span()).step_by(pattern.len().max(1)) {
            let cols = pattern.len().min(self.span() - from);
            let at = self.at + from * self.dtype.bytes();
            let part = Self { at, rows: 1, cols, stride: cols, ..self.clone() };
            match self.dtype {
                Dtype::Bf16 => part.write(device, &narrow[..cols])?,
                _ => part.write(device, &pattern[..cols])?,
            }
        }
        Ok(())
    }

    fn check_host<T>(&self, found: usize) -> CudaResult<()> {
        let expected = self.rows * self.cols;
        if found == expected && self.span() == expected && size_of::<T>() == self.dtype.bytes() {
            return Ok(());
        }
        let shape = format!("[{}, {}] every {} {:?}", self.rows, self.cols, self.stride, self.dtype);
        Err(CudaError::Argument(crate::Error::Size { op: "copy", name: "values", found, expected, shape }))
    }
}

/// A slice of memory that something else owns.
pub(crate) struct Alias<T>(pub(crate) ManuallyDrop<CudaSlice<T>>);

impl<T> Drop for Alias<T> {
    fn drop(&mut self) {
        // SAFETY: taken once, here; `leak` gives back what the slice holds beside the memory.
        unsafe { ManuallyDrop::take(&mut self.0) }.leak();
    }
}

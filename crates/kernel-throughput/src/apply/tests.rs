use super::read::tensor;
use super::*;

fn f32s(file: &SafeTensors, name: &'static str) -> Vec<f32> {
    tensor(file, name, Dtype::F32).unwrap().unwrap().1
}

fn written_file(tensors: &[(&str, Vec<usize>, Vec<f32>)], kind: Kind) -> Result<Vec<u8>, Error> {
    let folder = std::env::temp_dir().join(format!("apply-{}-{kind:?}-{}", std::process::id(), tensors.len()));
    std::fs::create_dir_all(&folder).unwrap();
    let (input, output) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views =
        tensors.iter().zip(&bytes).map(|(t, bytes)| (t.0, TensorView::new(Stored::F32, t.1.clone(), bytes).unwrap()));
    std::fs::write(&input, serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
    let options = Options { kind, dtype: Dtype::F32, residual: true, silu: false };
    let done = apply(&input, &output, options, None);
    let found = done.map(|()| std::fs::read(&output).unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
    found
}

/// One channel, two taps, by hand: y[t] = w0 x[t] + w1 x[t - 1] + x[t].
#[test]
fn a_static_filter_by_hand() {
    let tensors = [
        ("x", vec![1, 3, 1], vec![1.0, 2.0, 3.0]),
        ("static_w", vec![2, 1], vec![0.5, 10.0]),
        ("dy", vec![1, 3, 1], vec![1.0, 0.0, 1.0]),
        ("state", vec![1, 1, 1], vec![4.0]),
    ];
    let bytes = written_file(&tensors, Kind::Static).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(f32s(&file, "y"), [41.5, 13.0, 24.5]);
    assert_eq!(f32s(&file, "dx"), [1.5, 10.0, 1.5]);
    assert_eq!(f32s(&file, "dstatic_w"), [4.0, 6.0]);
    assert_eq!((f32s(&file, "final_state"), f32s(&file, "dstate")), (vec![3.0], vec![10.0]));
}

#[test]
fn without_dy_there_are_no_gradients_and_a_wrong_shape_is_named() {
    let mut tensors = vec![
        ("x", vec![1, 2, 2], vec![1.0, 2.0, 3.0, 4.0]),
        ("z", vec![1, 2, 1], vec![2.0, 3.0]),
        ("U", vec![1, 2], vec![1.0, 10.0]),
    ];
    let bytes = written_file(&tensors, Kind::LowRank).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!((file.names().len(), f32s(&file, "y")), (1, vec![3.0, 42.0, 12.0, 124.0]));
    tensors[2] = ("U", vec![2, 1], vec![1.0, 10.0]);
    let error = written_file(&tensors, Kind::LowRank).unwrap_err().to_string();
    assert_eq!(error, "tensor U: shape [2, 1]: store it as [R, W D]");
    let error = written_file(&tensors[..1], Kind::HeadWise).unwrap_err().to_string();
    assert_eq!(error, "tensor weight: missing: this op reads it");
}

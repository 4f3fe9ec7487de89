#pragma once

// Whether torch lets convolutions and products of matrices round float32 to TF32. It
// has enumerations for what torch before 2.10 names by strings.

#include <ATen/Context.h>
#include <torch/version.h>

namespace trajgru_ext {

#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 10

inline bool convolutions_take_tf32() {
  return at::globalContext().allowTF32CuDNN("conv");
}

inline bool products_take_tf32() {
  return at::globalContext().float32Precision("cuda", "matmul") == "tf32";
}

#else

inline bool convolutions_take_tf32() {
  return at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
}

inline bool products_take_tf32() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA,
                                              at::Float32Op::MATMUL) ==
         at::Float32Precision::TF32;
}

#endif

}  // namespace trajgru_ext

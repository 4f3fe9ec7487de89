#pragma once

// Argument checks that every family of operators shares. They name the operator, the
// argument, what was wanted and what came: TypeError for dtypes, ValueError for the
// rest. Those of a family stand beside its operators.

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace trajgru_ext {

inline bool supported_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 ||
         dtype == at::kHalf;
}

inline void check_tensor(const char* op, const char* name, const at::Tensor& tensor,
                         const at::Device& device) {
  TORCH_CHECK_TYPE(supported_dtype(tensor.scalar_type()), op, ": ", name,
                   " must be float32, float64, bfloat16 or float16, got ",
                   tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.device() == device, op, ": ", name, " must be on ", device,
                    ", where the other arguments are, got ", tensor.device());
}

inline void check_image(const char* op, const char* name, const at::Tensor& image,
                        const at::Device& device) {
  check_tensor(op, name, image, device);
  TORCH_CHECK_VALUE(image.dim() == 4, op, ": ", name, " must have 4 dimensions, ",
                    "[B, C, H, W], got ", image.dim(), ": ", image.sizes());
}

inline void check_same_dtype(const char* op, const char* name, const at::Tensor& tensor,
                             const at::Tensor& input) {
  check_tensor(op, name, tensor, input.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == input.scalar_type(), op, ": ", name,
                   " must have the dtype of input, ", input.scalar_type(), ", got ",
                   tensor.scalar_type());
}

}  // namespace trajgru_ext

#pragma once

// Argument checks of the gate updates; see checks.h.

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <vector>

#include "tensors/checks.h"

namespace trajgru_ext {

// Gates may be of a lower dtype than the state, as autocast makes them.
inline void check_gate_tensor(const char* op, const char* name, const at::Tensor& gates,
                              const char* state_name, const at::Tensor& state,
                              int64_t count) {
  check_image(op, name, gates, state.device());
  const auto wanted = {state.size(0), count * state.size(1), state.size(2),
                       state.size(3)};
  TORCH_CHECK_VALUE(gates.sizes() == at::IntArrayRef(wanted), op, ": ", name,
                    " must be [B, ", count == 1 ? "" : std::to_string(count),
                    "F, H, W] = ", at::IntArrayRef(wanted), " for ", state_name, " of ",
                    state.sizes(), ", got ", gates.sizes());
  TORCH_CHECK_TYPE(c10::promoteTypes(gates.scalar_type(), state.scalar_type()) ==
                       state.scalar_type(),
                   op, ": ", name, " must have the dtype of ", state_name, ", ",
                   state.scalar_type(), ", or a lower one, got ", gates.scalar_type());
}

// order: of the gates' slices.
inline void check_gate_order(const char* op, at::IntArrayRef order) {
  std::vector<int64_t> sorted(order.begin(), order.end());
  std::sort(sorted.begin(), sorted.end());
  for (size_t k = 0; k < sorted.size(); ++k) {
    TORCH_CHECK_VALUE(sorted[k] == static_cast<int64_t>(k), op,
                      ": gate_order must be a permutation of 0 to ", sorted.size() - 1,
                      ", got ", order);
  }
}

inline void check_gates(const char* op, const std::optional<at::Tensor>& x_gates,
                        const std::optional<at::Tensor>& h_gates,
                        const char* state_name, const at::Tensor& state,
                        int64_t count) {
  check_image(op, state_name, state, state.device());
  TORCH_CHECK_VALUE(x_gates.has_value() || h_gates.has_value(), op,
                    ": x_gates or h_gates must be given, got None for both");
  if (x_gates.has_value()) {
    check_gate_tensor(op, "x_gates", *x_gates, state_name, state, count);
  }
  if (h_gates.has_value()) {
    check_gate_tensor(op, "h_gates", *h_gates, state_name, state, count);
  }
}

// Of the sizes of the state; of any dtype.
inline void check_like_state(const char* op, const char* name, const at::Tensor& tensor,
                             const char* state_name, const at::Tensor& state) {
  check_tensor(op, name, tensor, state.device());
  TORCH_CHECK_VALUE(tensor.sizes() == state.sizes(), op, ": ", name,
                    " must have the sizes of ", state_name, ", ", state.sizes(),
                    ", got ", tensor.sizes());
}

// The elements of a state that keep their old value; state_name: the state's.
inline void check_zoneout_mask(const char* op, const std::optional<at::Tensor>& mask,
                               const char* state_name, const at::Tensor& state) {
  if (!mask.has_value()) return;
  TORCH_CHECK_TYPE(mask->scalar_type() == at::kBool, op,
                   ": zoneout_mask must be bool, got ", mask->scalar_type());
  TORCH_CHECK_VALUE(mask->device() == state.device(), op, ": zoneout_mask must be on ",
                    state.device(), ", where the other arguments are, got ",
                    mask->device());
  TORCH_CHECK_VALUE(mask->sizes() == state.sizes(), op,
                    ": zoneout_mask must have the sizes of ", state_name, ", ",
                    state.sizes(), ", got ", mask->sizes());
}

inline void check_gru_output(const char* op, const at::Tensor& u,
                             const at::Tensor& candidate, const at::Tensor& h) {
  check_image(op, "h", h, h.device());
  check_like_state(op, "u", u, "h", h);
  TORCH_CHECK_TYPE(u.scalar_type() == h.scalar_type(), op,
                   ": u must have the dtype of h, ", h.scalar_type(), ", got ",
                   u.scalar_type());
  check_gate_tensor(op, "candidate", candidate, "h", h, 1);
}

// c: the sizes of the cell state.
inline void check_peephole(const char* op, const std::optional<at::Tensor>& w_ci,
                           const std::optional<at::Tensor>& w_cf,
                           const std::optional<at::Tensor>& w_co, at::IntArrayRef c,
                           const at::Device& device) {
  const bool all = w_ci.has_value() && w_cf.has_value() && w_co.has_value();
  const bool any = w_ci.has_value() || w_cf.has_value() || w_co.has_value();
  TORCH_CHECK_VALUE(all == any, op, ": peephole must have all of w_ci, w_cf, w_co");
  if (!all) return;
  const auto per_element = {int64_t(1), c[1], c[2], c[3]};
  const auto per_channel = {int64_t(1), c[1], int64_t(1), int64_t(1)};
  for (const at::Tensor& w : {*w_ci, *w_cf, *w_co}) {
    check_tensor(op, "peephole", w, device);
    TORCH_CHECK_VALUE(
        (w.sizes() == at::IntArrayRef(per_element) ||
         w.sizes() == at::IntArrayRef(per_channel)) &&
            w.sizes() == w_ci->sizes(),
        op, ": peephole must be three of [1, F, H, W] = ", at::IntArrayRef(per_element),
        " or three of [1, F, 1, 1], got ", w.sizes());
  }
}

}  // namespace trajgru_ext

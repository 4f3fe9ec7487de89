#pragma once

// The gate updates of one element (ConvLSTM: Shi et al. 2015, arXiv 1506.04214; the
// GRU's variants: SJ Xingjian's HKO-7 and its kin), with sigma the logistic function:
//
//   LSTM  i = sigma(a_i + w_ci c)   f = sigma(a_f + w_cf c)   g = tanh(a_g)
//         c' = f c + i g   o = sigma(a_o + w_co c')   h' = o tanh(c')
//   GRU   r = sigma(a_r)   u = sigma(a_u)   n = act(q)
//         h' = u h + (1-u) n  ("keep"), or  (1-u) h + u n  ("replace")
//
// V is float, double, or a SIMD block of them that has the three functions below.

#include <cmath>
#include <type_traits>

#include "math/host_device.h"

namespace trajgru_ext {

template <typename V>
TRAJGRU_HOST_DEVICE std::enable_if_t<std::is_floating_point_v<V>, V> exponential(V x) {
  return std::exp(x);
}

template <typename V>
TRAJGRU_HOST_DEVICE std::enable_if_t<std::is_floating_point_v<V>, V> hyperbolic_tangent(
    V x) {
  return std::tanh(x);
}

// a where x > 0, else b, also where x is NaN.
template <typename V>
TRAJGRU_HOST_DEVICE std::enable_if_t<std::is_floating_point_v<V>, V> where_positive(
    V x, V a, V b) {
  return x > 0 ? a : b;
}

// The exponential overflows to infinity for x below -88 (-709): sigma is 0 there.
template <typename V>
TRAJGRU_HOST_DEVICE V sigma(V x) {
  return V(1) / (V(1) + exponential(-x));
}

// The derivatives of sigma and tanh, from their values.
template <typename V>
TRAJGRU_HOST_DEVICE V sigma_slope(V s) {
  return s * (V(1) - s);
}

template <typename V>
TRAJGRU_HOST_DEVICE V tanh_slope(V t) {
  return V(1) - t * t;
}

// Which slice of a tensor of gates is whose.
struct GruOrder {
  int r, u, n;
};

struct LstmOrder {
  int i, f, g, o;
};

// As trajgru_ext/ops/_options.py numbers them.
enum class Activation : int { tanh, relu, leaky_relu };

template <typename T>
struct GruUpdate {
  Activation activation;
  T negative_slope;   // of leaky_relu
  bool u_weighs_old;  // u multiplies the old state, not the candidate

  template <typename Other>
  void set(const GruUpdate<Other>& to) {
    *this = {to.activation, static_cast<T>(to.negative_slope), to.u_weighs_old};
  }
};

template <typename V, typename T>
TRAJGRU_HOST_DEVICE V activate(const GruUpdate<T>& update, V q) {
  switch (update.activation) {
    case Activation::tanh:
      return hyperbolic_tangent(q);
    case Activation::relu:
      return where_positive(-q, V(0), q);  // NaN stays NaN
    default:
      return where_positive(q, q, V(update.negative_slope) * q);
  }
}

// The gradient to q from that to n, the value at q. Where the slope is 0 it is 0, even
// from an infinite one.
template <typename V, typename T>
TRAJGRU_HOST_DEVICE V activation_grad(const GruUpdate<T>& update, V q, V n, V grad) {
  switch (update.activation) {
    case Activation::tanh:
      return grad * tanh_slope(n);
    case Activation::relu:
      return where_positive(q, grad, V(0));
    default:
      return where_positive(q, grad, V(update.negative_slope) * grad);
  }
}

// h' from the update gate, the candidate and the old state.
template <typename V, typename T>
TRAJGRU_HOST_DEVICE V gru_state(const GruUpdate<T>& update, V u, V n, V h) {
  return update.u_weighs_old ? u * h + (V(1) - u) * n : (V(1) - u) * h + u * n;
}

template <typename V>
struct GruStateGrad {
  V u, n, h;
};

template <typename V, typename T>
TRAJGRU_HOST_DEVICE GruStateGrad<V> gru_state_grad(const GruUpdate<T>& update, V u, V n,
                                                   V h, V grad) {
  const V to_u = grad * u, to_rest = grad * (V(1) - u);
  if (update.u_weighs_old) return {grad * (h - n), to_rest, to_u};
  return {grad * (n - h), to_u, to_rest};
}

template <typename V>
struct Peephole {
  bool present;
  V i, f, o;
};

template <typename V>
struct LstmGates {
  V i, f, g, o;
};

// What an LSTM remembers: the gates after their activation, and c'.
template <typename V>
struct LstmMemory {
  V i, f, g, c;
};

template <typename V>
TRAJGRU_HOST_DEVICE LstmMemory<V> lstm_memory(V a_i, V a_f, V a_g, V c) {
  LstmMemory<V> memory;
  memory.i = sigma(a_i);
  memory.f = sigma(a_f);
  memory.g = hyperbolic_tangent(a_g);
  memory.c = memory.f * c + memory.i * memory.g;
  return memory;
}

// The gradients to the gates before their activation, and to the old c, from that to
// c'.
template <typename V>
TRAJGRU_HOST_DEVICE LstmMemory<V> lstm_memory_grad(const LstmMemory<V>& memory, V c,
                                                   V to_c) {
  return {to_c * memory.g * sigma_slope(memory.i), to_c * c * sigma_slope(memory.f),
          to_c * memory.i * tanh_slope(memory.g), to_c * memory.f};
}

template <typename V>
struct LstmParts {
  LstmMemory<V> memory;
  V o, t;  // the output gate and the tanh of the new cell state
};

// a: the gates before their activation, without the peepholes' part.
template <typename V>
TRAJGRU_HOST_DEVICE LstmParts<V> lstm_parts(LstmGates<V> a, const Peephole<V>& w, V c) {
  if (w.present) {
    a.i = a.i + w.i * c;
    a.f = a.f + w.f * c;
  }
  LstmParts<V> parts;
  parts.memory = lstm_memory(a.i, a.f, a.g, c);
  parts.o = sigma(w.present ? a.o + w.o * parts.memory.c : a.o);
  parts.t = hyperbolic_tangent(parts.memory.c);
  return parts;
}

template <typename V>
struct LstmGrad {
  LstmGates<V> a;
  V c;
};

// The gradients to a and the old c, from those to h' and c'.
template <typename V>
TRAJGRU_HOST_DEVICE LstmGrad<V> lstm_grad(const LstmParts<V>& parts,
                                          const Peephole<V>& w, V c, V h_grad,
                                          V c_grad) {
  const V to_o = h_grad * parts.t * sigma_slope(parts.o);
  V to_c = c_grad + h_grad * parts.o * tanh_slope(parts.t);
  if (w.present) to_c = to_c + to_o * w.o;
  const auto to = lstm_memory_grad(parts.memory, c, to_c);
  LstmGrad<V> grad{{to.i, to.f, to.g, to_o}, to.c};
  if (w.present) grad.c = grad.c + grad.a.i * w.i + grad.a.f * w.f;
  return grad;
}

}  // namespace trajgru_ext

#pragma once

// exp and tanh of a register of numbers, inlined.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <cstdint>

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <typename T>
at::vec::Vectorized<T> exponential(const at::vec::Vectorized<T>& x) {
  return x.exp();
}

template <typename T>
at::vec::Vectorized<T> hyperbolic_tangent(const at::vec::Vectorized<T>& x) {
  return x.tanh();
}

// at::vec calls a library for each register; a gate update needs five such calls, which
// cost more than its memory traffic. The functions below are inlined, so that the
// processor works on several registers at once.
#if defined(CPU_CAPABILITY_AVX2) || defined(CPU_CAPABILITY_AVX512)

using Floats = at::vec::Vectorized<float>;

// exp(x) = 2^n exp(r) with n whole and |r| <= ln(2) / 2.
struct Powers {
  Floats scale;  // 2^n
  Floats rest;   // exp(r) - 1, of full relative accuracy
};

// For -87 <= x <= 88, where 2^n is a normal number, or NaN.
inline Powers powers(const Floats& x) {
  constexpr float kLog2E = 1.44269504f;
  // ln(2) in two parts, the first of few digits, so that n times it is exact.
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr int32_t kExponentBias = 127, kMantissaBits = 23;
  const Floats n = (x * Floats(kLog2E)).round();
  const Floats r =
      at::vec::fmadd(n, Floats(-kLn2Low), at::vec::fmadd(n, Floats(-kLn2High), x));
  // The Taylor series to r^7; the next term is below 6e-9.
  Floats sum(1.0f / 5040);
  for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2}) {
    sum = at::vec::fmadd(sum, r, Floats(c));
  }
  const auto exponent = at::vec::convert_to_int_of_same_size(n) +
                        at::vec::Vectorized<int32_t>(kExponentBias);
  const auto bits = exponent << at::vec::Vectorized<int32_t>(kMantissaBits);
  return {at::vec::cast<float>(bits), at::vec::fmadd(sum * r, r, r)};
}

// Beyond the limits exp keeps its value at the limit. sigma does not notice: 1 +
// exp(-87) rounds to 1, and 1 / (1 + exp(88)) is below the smallest normal number.
inline Floats exponential(const Floats& x) {
  const auto [scale, rest] = powers(at::vec::clamp(x, Floats(-87.0f), Floats(88.0f)));
  return at::vec::fmadd(scale, rest, scale);
}

// tanh(|x|) = |e| / (2 + e) with e = exp(-2|x|) - 1, of full accuracy around 0 too.
inline Floats hyperbolic_tangent(const Floats& x) {
  const Floats sign = x & Floats(-0.0f);
  const Floats twice = at::vec::clamp_min(x.abs() * Floats(-2.0f), Floats(-87.0f));
  const auto [scale, rest] = powers(twice);
  const Floats e = at::vec::fmadd(scale, rest, scale - Floats(1.0f));
  return (e.abs() / (e + Floats(2.0f))) | sign;
}

#endif

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext

#include "cpu/vec/winograd.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <int taps, typename T>
void convolve(const WinogradConv<T>& conv, int64_t begin, int64_t end, T* buffer) {
  const int64_t panel_size = product_kernels<T>().panel;
  convolve<taps>(conv, begin, end, buffer,
                 [&](const Patch& patch, const auto& products, int64_t panel) {
                   const int64_t first = panel * panel_size;
                   const int64_t outputs =
                       std::min(features_together(conv), conv.features - first);
                   for (int64_t c = 0; c < outputs; c += kVecSize<T>) {
                     Vec<T> out[kTileOutputs * kTileOutputs];
                     products.template outputs<taps>(c, out);
                     add_bias(conv, first + c, outputs - c, out);
                     store_outputs(conv, patch, first + c, outputs - c, out);
                   }
                 });
}

template <typename T>
void convolve(const WinogradConv<T>& conv, int64_t begin, int64_t end, T* buffer) {
  conv.tiles.taps == 3 ? convolve<3>(conv, begin, end, buffer)
                       : convolve<5>(conv, begin, end, buffer);
}

template <typename T>
int64_t panels(int64_t features) {
  return product_kernels<T>().panels(features);
}

template <typename T>
int64_t weights_size(const WinogradWeights<T>& weights) {
  const WinogradTiles tiles{0, 0, 0, weights.taps};
  return tiles.points() * weights.gates * panels<T>(weights.features) *
         product_kernels<T>().panel * weights.depth;
}

// Packs panels begin to end. The weights are transformed in double precision, so that
// they are rounded only once.
template <int taps, typename T>
void pack(const WinogradWeights<T>& weights, int64_t begin, int64_t end, T* packed) {
  using Wide = Vec<double>;
  constexpr int points = winograd_points(taps);
  constexpr WinogradPoints<taps> chosen;
  const int64_t panel = product_kernels<T>().panel;
  const int64_t point = weights_size(weights) / (points * points);
  for (int64_t number = begin; number < end; ++number) {
    const int64_t gate = number % weights.gates;
    for (int64_t c = 0; c < weights.channels; ++c) {
      T* to = packed + (number * weights.depth + weights.first_channel + c) * panel;
      for (int64_t column = 0; column < panel; column += Wide::size()) {
        const int64_t feature = number / weights.gates * panel + column;
        const int64_t count =
            std::clamp<int64_t>(weights.features - feature, 0, Wide::size());
        double tap[taps * taps][Wide::size()] = {};
        for (int64_t n = 0; n < count; ++n) {
          const int64_t output = gate * weights.features + feature + n;
          for (int i = 0; i < taps; ++i) {
            for (int j = 0; j < taps; ++j) {
              tap[i * taps + j][n] = *weights.at(output, c, i, j);
            }
          }
        }
        Wide in[taps * taps], out[points * points];
        for (int i = 0; i < taps * taps; ++i) in[i] = Wide::loadu(tap[i]);
        on_square<taps, points>(
            in, out, [](const Wide* g, Wide* u) { evaluate<taps, taps>(g, u); });
        for (int k = 0; k < points * points; ++k) {
          const double scale = chosen.scale[k / points] * chosen.scale[k % points];
          double row[Wide::size()];
          (out[k] * Wide(scale)).store(row);
          for (int n = 0; n < Wide::size(); ++n) {
            to[k * point + column + n] = static_cast<T>(row[n]);
          }
        }
      }
    }
  }
}

template <typename T>
void pack(const WinogradWeights<T>& weights, int64_t begin, int64_t end, T* packed) {
  weights.taps == 3 ? pack<3>(weights, begin, end, packed)
                    : pack<5>(weights, begin, end, packed);
}

// Bytes of the values of image and gradient at the points: they stay in the last-level
// cache, and are of many tiles, since all sums are read and written once for each lot.
constexpr int64_t kGradBytes = 4 << 20;
constexpr int64_t kFewestSummed = 48, kMostSummed = 256;

template <typename T>
int64_t grad_together(const WinogradWeightsGrad<T>& grad) {
  const int64_t bytes =
      grad.tiles.points() * (grad.channels + grad.outputs) * int64_t{sizeof(T)};
  return std::clamp(kGradBytes / std::max<int64_t>(bytes, 1), kFewestSummed,
                    kMostSummed);
}

template <typename T>
struct GradBuffer {
  int64_t points, row, point, panels, product_point;

  explicit GradBuffer(const WinogradWeightsGrad<T>& grad) {
    const int64_t most = grad_together(grad);
    points = grad.tiles.points();
    row = in_lines<T>(grad.channels + kVecSize<T>);
    point = apart<T>(most * row);
    panels = product_kernels<T>().panels(grad.outputs);
    product_point = apart<T>(most * panels * product_kernels<T>().panel);
  }

  T* image(T* buffer) const { return buffer; }
  T* grad(T* buffer) const { return buffer + points * point; }
  int64_t size() const { return points * (point + product_point); }
};

template <typename T>
int64_t grad_buffer_size(const WinogradWeightsGrad<T>& grad) {
  return GradBuffer<T>(grad).size();
}

template <int taps, typename T>
void transform_sides(const WinogradWeightsGrad<T>& grad, int64_t begin, int64_t end) {
  const ProductKernels<T>& products = product_kernels<T>();
  const GradBuffer<T> parts(grad);
  for (int64_t tile = begin; tile < end; ++tile) {
    transform_image<taps>(grad.tiles, grad.first + tile, grad.image, grad.channels,
                          parts.image(grad.buffer) + tile * parts.row, parts.point);
    // Packed as the right side of a product that sums over the tiles.
    for (int64_t n = 0; n < parts.panels; ++n) {
      PixelView<T> some = grad.grad;
      some.data += n * products.panel;
      transform_grad<taps>(
          grad.tiles, grad.first + tile, some,
          std::min(products.panel, grad.outputs - n * products.panel),
          parts.grad(grad.buffer) + (n * grad.count + tile) * products.panel,
          parts.product_point);
    }
  }
}

template <typename T>
void transform_sides(const WinogradWeightsGrad<T>& grad, int64_t begin, int64_t end) {
  grad.tiles.taps == 3 ? transform_sides<3>(grad, begin, end)
                       : transform_sides<5>(grad, begin, end);
}

template <typename T>
void sum_products(const WinogradWeightsGrad<T>& grad, int64_t point,
                  int64_t first_output) {
  const GradBuffer<T> parts(grad);
  const int64_t outputs = std::min(kWinogradOutputs, grad.outputs - first_output);
  product_kernels<T>().multiply_transposed(
      {grad.channels, grad.count, outputs,
       parts.image(grad.buffer) + point * parts.point, parts.row,
       parts.grad(grad.buffer) + point * parts.product_point +
           first_output * grad.count,
       grad.sums + point * grad.channels * grad.outputs + first_output, grad.outputs,
       grad.first == 0 ? zeros<T> : nullptr});
}

template <int taps, typename T>
void finish_grad(const WinogradWeightsGrad<T>& grad, int64_t begin, int64_t end,
                 T* weights_grad, int64_t output_stride) {
  constexpr int points = winograd_points(taps);
  constexpr WinogradPoints<taps> chosen;
  const int64_t all = grad.outputs * grad.channels;
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t o = 0; o < grad.outputs; o += kVecSize<T>) {
      const int64_t count = std::min(grad.outputs - o, kVecSize<T>);
      Vec<T> in[points * points], out[taps * taps];
      for (int k = 0; k < points * points; ++k) {
        const double scale = chosen.scale[k / points] * chosen.scale[k % points];
        in[k] = load(grad.sums + k * all + c * grad.outputs + o, count) *
                Vec<T>(static_cast<T>(scale));
      }
      on_square<points, taps>(in, out, [](const Vec<T>* u, Vec<T>* g) {
        evaluate_transposed<taps, taps>(u, g);
      });
      T rows[taps * taps][kVecSize<T>];
      for (int i = 0; i < taps * taps; ++i) out[i].store(rows[i]);
      for (int64_t n = 0; n < count; ++n) {
        T* to = weights_grad + (o + n) * output_stride + c * taps * taps;
        for (int i = 0; i < taps * taps; ++i) to[i] = rows[i][n];
      }
    }
  }
}

template <typename T>
void finish_grad(const WinogradWeightsGrad<T>& grad, int64_t begin, int64_t end,
                 T* weights_grad, int64_t output_stride) {
  grad.tiles.taps == 3 ? finish_grad<3>(grad, begin, end, weights_grad, output_stride)
                       : finish_grad<5>(grad, begin, end, weights_grad, output_stride);
}

}  // namespace

template <typename T>
const WinogradKernels<T>& winograd_kernels() {
  static constexpr WinogradKernels<T> kernels = {
      panels<T>,          weights_size<T>, pack<T>,          together<T>,
      buffer_size<T>,     convolve<T>,     grad_together<T>, grad_buffer_size<T>,
      transform_sides<T>, sum_products<T>, finish_grad<T>};
  return kernels;
}

template const WinogradKernels<float>& winograd_kernels<float>();

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext

#include "cpu/vec/winograd.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <int rows, int columns, typename T>
void convolve(const WinogradConv<T>& conv, int64_t begin, int64_t end, T* buffer) {
  constexpr int tile_rows = winograd_outputs(rows);
  constexpr int tile_columns = winograd_outputs(columns);
  const int64_t panel_size = product_kernels<T>().panel;
  convolve<rows, columns>(
      conv, begin, end, buffer,
      [&](const Patch& patch, const auto& products, int64_t panel) {
        const int64_t first = panel * panel_size;
        const int64_t outputs =
            std::min(features_together(conv), conv.features - first);
        for (int64_t c = 0; c < outputs; c += kVecSize<T>) {
          Vec<T> out[tile_rows * tile_columns];
          products.template outputs<rows, columns>(c, out);
          add_bias<tile_rows * tile_columns>(conv, first + c, outputs - c, out);
          store_outputs<tile_rows, tile_columns>(conv, patch, first + c, outputs - c,
                                                 out);
        }
      });
}

template <typename T>
void convolve(const WinogradConv<T>& conv, int64_t begin, int64_t end, T* buffer) {
  for_taps(conv.tiles.tap_rows, conv.tiles.tap_columns, [&]<int rows, int columns>() {
    convolve<rows, columns>(conv, begin, end, buffer);
  });
}

template <typename T>
int64_t panels(int64_t features) {
  return product_kernels<T>().panels(features);
}

template <typename T>
int64_t weights_size(const WinogradWeights<T>& weights) {
  WinogradTiles tiles{};
  tiles.tap_rows = weights.tap_rows;
  tiles.tap_columns = weights.tap_columns;
  return tiles.points() * weights.gates * panels<T>(weights.features) *
         product_kernels<T>().panel * weights.depth;
}

// Packs panels begin to end. The weights are transformed in double precision, so that
// they are rounded only once.
template <int rows, int columns, typename T>
void pack(const WinogradWeights<T>& weights, int64_t begin, int64_t end, T* packed) {
  using Wide = Vec<double>;
  constexpr int row_points = winograd_points(rows);
  constexpr int column_points = winograd_points(columns);
  constexpr int points = row_points * column_points;
  constexpr WinogradPoints<rows> of_rows;
  constexpr WinogradPoints<columns> of_columns;
  const int64_t panel = product_kernels<T>().panel;
  const int64_t point = weights_size(weights) / points;
  for (int64_t number = begin; number < end; ++number) {
    const int64_t gate = number % weights.gates;
    for (int64_t c = 0; c < weights.channels; ++c) {
      T* to = packed + (number * weights.depth + weights.first_channel + c) * panel;
      for (int64_t column = 0; column < panel; column += Wide::size()) {
        const int64_t feature = number / weights.gates * panel + column;
        const int64_t count =
            std::clamp<int64_t>(weights.features - feature, 0, Wide::size());
        double tap[rows * columns][Wide::size()] = {};
        for (int64_t n = 0; n < count; ++n) {
          const int64_t output = gate * weights.features + feature + n;
          for (int i = 0; i < rows; ++i) {
            for (int j = 0; j < columns; ++j) {
              tap[i * columns + j][n] = *weights.at(output, c, i, j);
            }
          }
        }
        Wide in[rows * columns], out[points];
        for (int i = 0; i < rows * columns; ++i) in[i] = Wide::loadu(tap[i]);
        on_grid<rows, row_points, columns, column_points>(
            in, out, [](const Wide* g, Wide* u) { evaluate<rows, rows>(g, u); },
            [](const Wide* g, Wide* u) { evaluate<columns, columns>(g, u); });
        for (int k = 0; k < points; ++k) {
          const double scale =
              of_rows.scale[k / column_points] * of_columns.scale[k % column_points];
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
  for_taps(weights.tap_rows, weights.tap_columns, [&]<int rows, int columns>() {
    pack<rows, columns>(weights, begin, end, packed);
  });
}

// Bytes of the values of image and gradient at the points: they stay in the last-level
// cache, and are of many tiles, since all sums are read and written once for each lot.
constexpr int64_t kGradBytes = 4 << 20;
constexpr int64_t kFewestSummed = 48, kMostSummed = 256;

template <typename T>
int64_t grad_together(const WinogradWeightsGrad<T>& grad) {
  const int64_t bytes =
      grad.tiles.points() * (grad.channels + grad.outputs) * int64_t{sizeof(T)};
  return std::clamp(kGradBytes / bytes, kFewestSummed, kMostSummed);
}

template <typename T>
struct GradBuffer {
  int64_t points, row, point, panels, product_point;

  explicit GradBuffer(const WinogradWeightsGrad<T>& grad) {
    points = grad.tiles.points();
    row = in_lines<T>(grad.channels + kVecSize<T>);
    point = apart<T>(grad.count * row);
    panels = product_kernels<T>().panels(grad.outputs);
    product_point = apart<T>(grad.count * panels * product_kernels<T>().panel);
  }

  T* image(T* buffer) const { return buffer; }
  T* grad(T* buffer) const { return buffer + points * point; }
  int64_t size() const { return points * (point + product_point); }
};

template <typename T>
int64_t grad_buffer_size(const WinogradWeightsGrad<T>& grad) {
  return GradBuffer<T>(grad).size();
}

template <int rows, int columns, typename T>
void transform_sides(const WinogradWeightsGrad<T>& grad, int64_t begin, int64_t end) {
  const ProductKernels<T>& products = product_kernels<T>();
  const GradBuffer<T> parts(grad);
  for (int64_t tile = begin; tile < end; ++tile) {
    transform_image<rows, columns>(
        grad.tiles, grad.first + tile, grad.image, grad.channels,
        parts.image(grad.buffer) + tile * parts.row, parts.point);
    // Packed as the right side of a product that sums over the tiles.
    for (int64_t n = 0; n < parts.panels; ++n) {
      PixelView<T> some = grad.grad;
      some.data += n * products.panel;
      transform_grad<rows, columns>(
          grad.tiles, grad.first + tile, some,
          std::min(products.panel, grad.outputs - n * products.panel),
          parts.grad(grad.buffer) + (n * grad.count + tile) * products.panel,
          parts.product_point);
    }
  }
}

template <typename T>
void transform_sides(const WinogradWeightsGrad<T>& grad, int64_t begin, int64_t end) {
  for_taps(grad.tiles.tap_rows, grad.tiles.tap_columns, [&]<int rows, int columns>() {
    transform_sides<rows, columns>(grad, begin, end);
  });
}

template <typename T>
void sum_products(const WinogradWeightsGrad<T>& grad,
                  const WinogradGradBlock<T>& block) {
  const GradBuffer<T> parts(grad);
  const T* image = parts.image(grad.buffer) + block.channel;
  const T* to_result = parts.grad(grad.buffer) + block.output * grad.count;
  for (int64_t k = 0; k < block.points; ++k) {
    const int64_t point = block.point + k;
    product_kernels<T>().multiply_transposed(
        {block.channels, grad.count, block.outputs, image + point * parts.point,
         parts.row, to_result + point * parts.product_point,
         block.sums + k * block.sums_point, block.sums_channel,
         grad.first == 0 ? zeros<T> : nullptr});
  }
}

template <int rows, int columns, typename T>
void finish_grad(const WinogradGradBlock<T>& block, T* weights_grad,
                 int64_t output_stride) {
  constexpr int row_points = winograd_points(rows);
  constexpr int column_points = winograd_points(columns);
  constexpr int points = row_points * column_points, taps = rows * columns;
  constexpr WinogradPoints<rows> of_rows;
  constexpr WinogradPoints<columns> of_columns;
  for (int64_t c = 0; c < block.channels; ++c) {
    for (int64_t o = 0; o < block.outputs; o += kVecSize<T>) {
      const int64_t count = std::min(block.outputs - o, kVecSize<T>);
      Vec<T> in[points], out[taps];
      for (int k = 0; k < points; ++k) {
        const double scale =
            of_rows.scale[k / column_points] * of_columns.scale[k % column_points];
        const T* sum = block.sums + k * block.sums_point + c * block.sums_channel + o;
        in[k] = load(sum, count) * Vec<T>(static_cast<T>(scale));
      }
      on_grid<row_points, rows, column_points, columns>(
          in, out,
          [](const Vec<T>* u, Vec<T>* g) { evaluate_transposed<rows, rows>(u, g); },
          [](const Vec<T>* u, Vec<T>* g) {
            evaluate_transposed<columns, columns>(u, g);
          });
      T values[taps][kVecSize<T>];
      for (int i = 0; i < taps; ++i) out[i].store(values[i]);
      for (int64_t n = 0; n < count; ++n) {
        T* to = weights_grad + (block.output + o + n) * output_stride +
                (block.channel + c) * taps;
        for (int i = 0; i < taps; ++i) to[i] = values[i][n];
      }
    }
  }
}

template <typename T>
void finish_grad(const WinogradWeightsGrad<T>& grad, const WinogradGradBlock<T>& block,
                 T* weights_grad, int64_t output_stride) {
  for_taps(grad.tiles.tap_rows, grad.tiles.tap_columns, [&]<int rows, int columns>() {
    finish_grad<rows, columns>(block, weights_grad, output_stride);
  });
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

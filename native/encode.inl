// Reals to words, onto masks. Included inside the anonymous namespace of each instruction set, after its Encode:
//   Encode::row(count, values, fraction, also, out)   out += also + words of the values; returns how many do not fit

template <class T>
struct Wide {
  using Type = T;
  static T of(T value) { return value; }
};

// The bits of a bfloat16.
template <>
struct Wide<std::uint16_t> {
  using Type = float;
  static float of(std::uint16_t bits) {
    const std::uint32_t whole = std::uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &whole, sizeof value);
    return value;
  }
};

// A tensor of weights lies transposed, most often: square blocks of it turn in the cache. Row r is multiplied by gain[r].
template <class T>
Index encode(Index rows, Index columns, const T* values, Index down, Index across, const float* gain, int fraction,
             const Word* also, Word* out, Index stride) {
  using Real = typename Wide<T>::Type;
  constexpr Index kSide = 32;
  Real block[kSide][kSide];
  Index bad = 0;
  for (Index top = 0; top < rows; top += kSide) {
    const Index height = least(kSide, rows - top);
    for (Index left = 0; left < columns; left += kSide) {
      const Index width = least(kSide, columns - left);
      const T* from = values + top * down + left * across;
      for (Index c = 0; c < width; ++c) {
        for (Index r = 0; r < height; ++r) block[r][c] = Wide<T>::of(from[r * down + c * across]);
      }
      for (Index r = 0; r < height; ++r) {
        const Index place = (top + r) * stride + left;
        if (gain != nullptr) {
          for (Index c = 0; c < width; ++c) block[r][c] *= gain[top + r];
        }
        bad += Encode::row(width, block[r], fraction, also + place, out + place);
      }
    }
  }
  return bad;
}

Index encode16(Index rows, Index columns, const std::uint16_t* values, Index down, Index across, const float* gain,
               int fraction, const Word* also, Word* out, Index stride) {
  return encode(rows, columns, values, down, across, gain, fraction, also, out, stride);
}

Index encode32(Index rows, Index columns, const float* values, Index down, Index across, const float* gain, int fraction,
               const Word* also, Word* out, Index stride) {
  return encode(rows, columns, values, down, across, gain, fraction, also, out, stride);
}

Index encode64(Index rows, Index columns, const double* values, Index down, Index across, const float* gain, int fraction,
               const Word* also, Word* out, Index stride) {
  return encode(rows, columns, values, down, across, gain, fraction, also, out, stride);
}

// Encode for instruction sets without a conversion of vectors to 64-bit integers.
struct Encode {
  template <class T>
  static Index row(Index count, const T* values, int fraction, const Word* also, Word* out) {
    const double scale = static_cast<double>(Word{1} << fraction), limit = static_cast<double>(Word{1} << (62 - fraction));
    Index bad = 0;
    for (Index i = 0; i < count; ++i) {
      const double value = static_cast<double>(values[i]);
      const bool fits = value < limit && value > -limit;
      bad += !fits;
      out[i] += also[i] + static_cast<Word>(static_cast<std::int64_t>(__builtin_rint(fits ? value * scale : 0.0)));
    }
    return bad;
  }
};

// What the machine can do at best: 64-bit low products (vpmullq) from registers, nothing loaded, nothing added. Built by kernel_ratio.py.

// Runs 12 independent chains of vpmullq, eight words wide, `turns` times. Assembly, because compilers keep an array of chains in memory.
extern "C" void products(long long turns) {
  asm volatile(
      "1:\n\t"
      "vpmullq %%zmm0, %%zmm1, %%zmm1\n\t"
      "vpmullq %%zmm0, %%zmm2, %%zmm2\n\t"
      "vpmullq %%zmm0, %%zmm3, %%zmm3\n\t"
      "vpmullq %%zmm0, %%zmm4, %%zmm4\n\t"
      "vpmullq %%zmm0, %%zmm5, %%zmm5\n\t"
      "vpmullq %%zmm0, %%zmm6, %%zmm6\n\t"
      "vpmullq %%zmm0, %%zmm7, %%zmm7\n\t"
      "vpmullq %%zmm0, %%zmm8, %%zmm8\n\t"
      "vpmullq %%zmm0, %%zmm9, %%zmm9\n\t"
      "vpmullq %%zmm0, %%zmm10, %%zmm10\n\t"
      "vpmullq %%zmm0, %%zmm11, %%zmm11\n\t"
      "vpmullq %%zmm0, %%zmm12, %%zmm12\n\t"
      "dec %0\n\t"
      "jnz 1b"
      : "+r"(turns)
      :
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12");
}

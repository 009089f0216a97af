//! Vector registers, through which keys are copied and encrypted.

/// Clears them, after a key went through: what stays in them stands in the frame of the next signal, on a stack that is not
/// secret memory, and in core files. For paths that are not hot; does nothing on other processors than x86-64.
#[inline(never)]
pub(super) fn clear_registers() {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx") {
        clear_avx();
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "an instruction that no function stands for")]
fn clear_avx() {
    // SAFETY: the processor has the instruction; it writes registers alone, all of which are declared.
    unsafe {
        std::arch::asm!(
            "vzeroall",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
            out("xmm15") _, options(nomem, nostack, preserves_flags)
        );
    }
}

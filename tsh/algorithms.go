package tsh

import (
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// keyExchanges, the hybrid with ML-KEM first: what is recorded today is not to be read by a quantum computer
// later.
var keyExchanges = []string{
	ssh.KeyExchangeMLKEM768X25519,
	ssh.KeyExchangeCurve25519,
	ssh.KeyExchangeECDHP256,
	ssh.KeyExchangeECDHP384,
}

// hostAlgorithms are certificates alone: a node that shows a plain key is refused.
var hostAlgorithms = []string{
	ssh.CertAlgoED25519v01,
	ssh.CertAlgoECDSA256v01,
	ssh.CertAlgoECDSA384v01,
	ssh.CertAlgoRSASHA512v01,
	ssh.CertAlgoRSASHA256v01,
}

// ciphers, fastest first: AES-GCM has three times ChaCha20's rate where the processor knows AES (measured),
// and a fraction of it, and timings that tell of the key, where it does not. The client's order counts (RFC
// 4253 section 7.1).
func ciphers(aes bool) []string {
	gcm := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	chacha := []string{ssh.CipherChaCha20Poly1305}
	ctr := []string{ssh.CipherAES256CTR, ssh.CipherAES192CTR, ssh.CipherAES128CTR}
	if aes {
		return append(append(gcm, chacha...), ctr...)
	}
	return append(append(chacha, gcm...), ctr...)
}

// hasAES reports whether the processor knows AES and the multiplication of GCM.
func hasAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAESGCM
}

// negotiated says what a connection is protected by.
func negotiated(c *ssh.Client) string {
	a, ok := c.Conn.(ssh.AlgorithmsConnMetadata)
	if !ok {
		return ""
	}
	n := a.Algorithms()
	return ", " + clean(n.KeyExchange) + ", " + clean(n.Write.Cipher)
}

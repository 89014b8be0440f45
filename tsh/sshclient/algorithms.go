package sshclient

import (
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"

	"github.com/threshold-access/threshold/tsh/terminal"
)

// keyExchanges has the hybrid with ML-KEM first, so that traffic that is recorded today cannot be read later
// with a quantum computer.
var keyExchanges = []string{
	ssh.KeyExchangeMLKEM768X25519,
	ssh.KeyExchangeCurve25519,
	ssh.KeyExchangeECDHP256,
	ssh.KeyExchangeECDHP384,
}

// hostAlgorithms has certificates only: a node that shows a plain key is refused.
var hostAlgorithms = []string{
	ssh.CertAlgoED25519v01,
	ssh.CertAlgoECDSA256v01,
	ssh.CertAlgoECDSA384v01,
	ssh.CertAlgoRSASHA512v01,
	ssh.CertAlgoRSASHA256v01,
}

// ciphers returns the ciphers to offer, the fastest first. The client's order decides (RFC 4253 section 7.1).
// With AES instructions AES-GCM is three times as fast as ChaCha20 (measured). Without them it is much slower
// and its timing leaks information about the key.
func ciphers(aes bool) []string {
	gcm := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	chacha := []string{ssh.CipherChaCha20Poly1305}
	ctr := []string{ssh.CipherAES256CTR, ssh.CipherAES192CTR, ssh.CipherAES128CTR}
	if aes {
		return append(append(gcm, chacha...), ctr...)
	}
	return append(append(chacha, gcm...), ctr...)
}

// HasAES reports whether the processor has instructions for AES and for the multiplication in GCM.
func HasAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ ||
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAESGCM
}

// Algorithms names the key exchange and the cipher of the connection, or is empty if they are not known.
func (c *Client) Algorithms() string {
	conn, ok := c.Conn.(ssh.AlgorithmsConnMetadata)
	if !ok {
		return ""
	}
	negotiated := conn.Algorithms()
	return terminal.Clean(negotiated.KeyExchange) + ", " + terminal.Clean(negotiated.Write.Cipher)
}

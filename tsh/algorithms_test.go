package tsh

import (
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestCiphersFollowTheProcessor(t *testing.T) {
	t.Parallel()
	with, without := ciphers(true), ciphers(false)
	if with[0] != ssh.CipherAES128GCM {
		t.Errorf("with AES in the processor: got %s first, want AES-GCM", with[0])
	}
	if without[0] != ssh.CipherChaCha20Poly1305 {
		t.Errorf("without AES in the processor: got %s first, want ChaCha20", without[0])
	}
	slices.Sort(with)
	slices.Sort(without)
	if !slices.Equal(with, without) {
		t.Errorf("got %v and %v, want the same ciphers", with, without)
	}
}

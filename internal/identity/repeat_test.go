package identity_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/crypto/ssh"
)

// text encodes a string as SSH does (RFC 4251 section 5).
func text(s []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }

// If a certificate had two options with one name, verifiers could disagree on which one counts. Package ssh
// refuses it, and one whose options are out of order.
func TestACertificateThatRepeatsAnOptionIsRefused(t *testing.T) {
	t.Parallel()
	pinned := critical("source-address", "192.0.2.0/24")(t)
	option := append(text([]byte("source-address")), text(text([]byte("192.0.2.0/24")))...)
	other := append(text([]byte("force-command")), text(text([]byte("true")))...) // before it in order
	wire := pinned.Marshal()
	if !bytes.Contains(wire, text(option)) {
		t.Fatal("the option is not where it is looked for")
	}
	if _, err := ssh.ParsePublicKey(wire); err != nil {
		t.Fatalf("got %v for the certificate as it was, want it read", err)
	}
	for name, options := range map[string][]byte{
		"the same twice": append(bytes.Clone(option), option...),
		"the same with another value": append(bytes.Clone(option),
			append(text([]byte("source-address")), text(text([]byte("0.0.0.0/0")))...)...),
		"out of order": append(bytes.Clone(option), other...),
	} {
		if _, err := ssh.ParsePublicKey(bytes.Replace(wire, text(option), text(options), 1)); err == nil {
			t.Errorf("%s: got a certificate, want none", name)
		}
	}
}

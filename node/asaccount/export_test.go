package asaccount

import (
	"bytes"
	"testing"
)

// CheckMessage parses a message and, if it is valid, checks that marshalling it gives the same bytes.
func CheckMessage(t *testing.T, b []byte) {
	m, err := parseMessage(b)
	if err != nil {
		return
	}
	if m.hasNumber() {
		m.number()
	}
	if !bytes.Equal(m.marshal(), b) {
		t.Errorf("got %x back, want %x", m.marshal(), b)
	}
}

// HelperPID returns the helper's process id.
func (s *Sockets) HelperPID() int { return s.helper.process.PID() }

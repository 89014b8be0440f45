package sshclient

import (
	"slices"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseRefusal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{
		"":                         {"", ""},
		"threshold: error: no\r\n": {"no", ""},
		"threshold: error: no\x1b[2J\nthreshold: hint: ask\n": {"no[2J", "ask"},
		"first\n\nsecond\n":    {"first; second", ""},
		"threshold: hint: ask": {"", "ask"},
	} {
		if reason, hint := ParseRefusal(text); reason != want[0] || hint != want[1] {
			t.Errorf("%q: got %q and %q, want %q", text, reason, hint, want)
		}
	}
}

func TestRefusedChannelHasTheReasonOfTheNode(t *testing.T) {
	t.Parallel()
	for message, want := range map[string][2]string{
		"":                        {"the node refused it", HintAskForRole},
		"no role allows it":       {"the node refused it: no role allows it", HintAskForRole},
		"no role allows it (ask)": {"the node refused it: no role allows it", "ask"},
	} {
		refusal := &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: message}
		err := ChannelRefusedFault(refusal, "the node refused it")
		if fault.Message(err) != want[0] || fault.Remedy(err) != want[1] {
			t.Errorf("%q: got %q and %q, want %q", message, fault.Message(err), fault.Remedy(err), want)
		}
	}
}

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

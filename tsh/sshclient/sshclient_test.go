package sshclient

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A node's fault is read whole, with its advice marked as the node's. Text of other servers is one line.
// Nothing of either can control the terminal.
func TestRefusalsAreRead(t *testing.T) {
	t.Parallel()
	denied := errors.New("denied")
	object := func(f *fault.Error) string { return string(fault.MarshalObject(f, dial.MaxFaultBytes)) }
	known := &fault.Error{Code: "a-b", Kind: fault.Denied, Msg: "no\x1b[2J", Remedy: "ask\nthem"}
	for message, want := range map[string]Refusal{
		"":                    {"the node gave no reason", "", denied},
		"first\n\nse\x1bcond": {"first; second", "", denied},
		`{"error":`:           {`{"error":`, "", denied},
		object(known): {"no?[2J", "the node says: ask them", &fault.Error{
			Code: "a-b", Kind: fault.Denied, Msg: "no?[2J", Remedy: "ask them"}},
		`{"error":{"code":"moon-full","kind":"lunar","message":"the moon is full"}}`: {"the moon is full", "",
			&fault.Error{Code: "moon-full", Kind: "lunar", Msg: "the moon is full"}},
	} {
		if got := ReadRefusal(message, denied); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", message, got, want)
		}
		refusal := &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: message}
		if got := ChannelRefusal(refusal); got.Why != want.Why || got.Hint != want.Hint {
			t.Errorf("%q: got %+v for a channel, want %+v", message, got, want)
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

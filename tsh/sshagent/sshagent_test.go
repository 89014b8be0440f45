package sshagent_test

import (
	"crypto/ed25519"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/tsh/sshagent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves the keyring, which does not know destination constraints, until the test ends.
func serve(t *testing.T, ring agent.Agent) sshagent.Agent {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			tasks.Go(func() {
				defer conn.Close()
				_ = agent.ServeAgent(ring, conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); tasks.Wait() })
	return sshagent.Agent(socket)
}

func newKey(t *testing.T, comment string) agent.AddedKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return agent.AddedKey{PrivateKey: key, Comment: comment}
}

func TestRemoveRemovesOnlyKeysWithTheComment(t *testing.T) {
	t.Parallel()
	ring := agent.NewKeyring()
	a := serve(t, ring)
	for _, comment := range []string{"old", "other", "old"} {
		if err := a.Add(newKey(t, comment)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Remove("old"); err != nil {
		t.Fatal(err)
	}
	if keys, err := ring.List(); err != nil || len(keys) != 1 || keys[0].Comment != "other" {
		t.Errorf("got %v (%v), want only the other key", keys, err)
	}
}

// No key is loaded without its limit by mistake.
func TestAddForLoadsNoKeyWithoutALimit(t *testing.T) {
	t.Parallel()
	ring := agent.NewKeyring()
	a := serve(t, ring)
	if err := a.AddFor(newKey(t, "x"), []string{"web-1"}, nil); !errors.Is(err, sshagent.ErrCannotLimit) {
		t.Errorf("an agent without constraints: got %v, want ErrCannotLimit", err)
	}
	if err := a.AddFor(newKey(t, "x"), make([]string, 1001), nil); err == nil {
		t.Error("too many hosts: got no error, want one")
	}
	if keys, err := ring.List(); err != nil || len(keys) != 0 {
		t.Errorf("got %v (%v), want no key", keys, err)
	}
}

func TestNoAgent(t *testing.T) {
	t.Parallel()
	a := sshagent.Agent(filepath.Join(t.TempDir(), "none"))
	if err := a.Add(newKey(t, "x")); err == nil {
		t.Error("Add: got no error, want one")
	}
	if err := a.Remove("x"); err == nil {
		t.Error("Remove: got no error, want one")
	}
}

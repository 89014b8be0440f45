package forward_test

import (
	"crypto/ed25519"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/tsh/forward"
)

// startAgent runs OpenSSH's ssh-agent until the test ends and returns its socket.
func startAgent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("ssh-agent: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil { // it prints once it listens
		t.Fatal(err)
	}
	return path
}

// toOneHost returns a destination constraint for a key: it may only be used from this machine to the host
// web-1 with this host key (OpenSSH ssh-agent.c, parse_dest_constraint).
func toOneHost(host ssh.PublicKey) []agent.ConstraintExtension {
	hop := func(name string, keys []byte) []byte {
		return ssh.Marshal(struct {
			User, Host, Reserved string
			Keys                 []byte `ssh:"rest"`
		}{"", name, "", keys})
	}
	key := ssh.Marshal(struct {
		Key         []byte
		IsAuthority bool
	}{host.Marshal(), false})
	thisMachine, web1 := hop("", nil), hop("web-1", key)
	constraint := ssh.Marshal(struct{ From, To, Reserved string }{string(thisMachine), string(web1), ""})
	return []agent.ConstraintExtension{{
		ExtensionName:    "restrict-destination-v00@openssh.com",
		ExtensionDetails: ssh.Marshal(struct{ String string }{string(constraint)}),
	}}
}

// A node to which the agent is forwarded cannot use keys that are limited to destinations, such as those of
// tsh login.
func TestForwardedAgentKeepsItsConstraints(t *testing.T) {
	t.Parallel()
	path := startAgent(t)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	here := agent.NewClient(conn)
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	constraints := map[string][]agent.ConstraintExtension{"free": nil, "limited": toOneHost(hostKey)}
	for comment, c := range constraints {
		_, key, err := ed25519.GenerateKey(nil)
		if err == nil {
			err = here.Add(agent.AddedKey{PrivateKey: key, Comment: comment, ConstraintExtensions: c})
		}
		if err != nil {
			t.Fatalf("%s: %v", comment, err)
		}
	}
	mine, err := here.List()
	if err != nil || len(mine) != 2 {
		t.Fatalf("got %v, %v, want both keys for this machine", mine, err)
	}

	node := newTestNode(t)
	mustStart(t, node, forward.Config{Agent: path, Notify: func(s string) { t.Error(s) }})
	for range 2 { // each channel is a connection of its own
		ch, reqs, err := node.conn.OpenChannel("auth-agent@openssh.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs)
		there := agent.NewClient(ch)
		keys, err := there.List()
		if err != nil || len(keys) != 1 || keys[0].Comment != "free" {
			t.Errorf("got %v, %v, want only the free key", keys, err)
		}
		for _, k := range mine {
			if _, err := there.Sign(k, []byte("data")); (err == nil) != (k.Comment == "free") {
				t.Errorf("%s: got %v, want a signature only by the free key", k.Comment, err)
			}
		}
		_ = ch.Close()
	}
}

// An agent that does not know session-bind answers it with a failure. It is forwarded all the same.
func TestAgentWithoutSessionBindIsForwarded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			_ = agent.ServeAgent(agent.NewKeyring(), c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	node := newTestNode(t)
	mustStart(t, node, forward.Config{Agent: path, Notify: func(s string) { t.Error(s) }})
	ch, reqs, err := node.conn.OpenChannel("auth-agent@openssh.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if keys, err := agent.NewClient(ch).List(); err != nil || len(keys) != 0 {
		t.Errorf("got %v, %v, want its empty list", keys, err)
	}
	_ = ch.Close()
}

func TestMissingAgentIsReported(t *testing.T) {
	t.Parallel()
	var seen notices
	node := newTestNode(t)
	mustStart(t, node, forward.Config{Agent: filepath.Join(t.TempDir(), "none"), Notify: seen.add})
	if _, _, err := node.conn.OpenChannel("auth-agent@openssh.com", nil); err == nil || seen.all() == "" {
		t.Errorf("got %v and messages %q, want a refusal and the reason", err, seen.all())
	}
}

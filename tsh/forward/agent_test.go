package forward_test

import (
	"crypto/ed25519"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/tsh/forward"
)

// startAgent runs OpenSSH's agent and returns its socket.
func startAgent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", path)
	if err := cmd.Start(); err != nil {
		t.Fatalf("ssh-agent: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for late := time.Now().Add(10 * time.Second); time.Now().Before(late); {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return path
		}
	}
	t.Fatal("ssh-agent does not answer")
	return ""
}

// toOneHost is a destination constraint (OpenSSH ssh-agent.c, parse_dest_constraint): from this machine to
// one host alone.
func toOneHost(host ssh.PublicKey) []agent.ConstraintExtension {
	type text struct{ S string }
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
	one := ssh.Marshal(
		struct{ From, To, Reserved string }{string(hop("", nil)), string(hop("web-1", key)), ""},
	)
	return []agent.ConstraintExtension{
		{
			ExtensionName:    "restrict-destination-v00@openssh.com",
			ExtensionDetails: ssh.Marshal(text{string(one)}),
		},
	}
}

// A node that a person lets use the agent gets no use of keys that are bound to destinations, such as those
// of tsh login.
func TestForwardedAgentKeepsItsConstraints(t *testing.T) {
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
	for comment, c := range map[string][]agent.ConstraintExtension{"free": nil, "bound": toOneHost(hostKey)} {
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

	f := newTestNode(t)
	if _, err := start(t, f, forward.Config{Agent: path, Notify: func(s string) { t.Error(s) }}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // each connection anew
		ch, reqs, err := f.conn.OpenChannel("auth-agent@openssh.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs)
		there := agent.NewClient(ch)
		keys, err := there.List()
		if err != nil || len(keys) != 1 || keys[0].Comment != "free" {
			t.Errorf("got %v, %v, want the free key alone", keys, err)
		}
		for _, k := range mine {
			if _, err := there.Sign(k, []byte("data")); (err == nil) != (k.Comment == "free") {
				t.Errorf("%s: got %v, want a signature by the free key alone", k.Comment, err)
			}
		}
		_ = ch.Close()
	}
}

func TestAgentWithoutSessionBindIsForwarded(t *testing.T) {
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
	f := newTestNode(t)
	if _, err := start(t, f, forward.Config{Agent: path, Notify: func(s string) { t.Error(s) }}); err != nil {
		t.Fatal(err)
	}
	ch, reqs, err := f.conn.OpenChannel("auth-agent@openssh.com", nil)
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
	var s said
	f := newTestNode(t)
	if _, err := start(t, f, forward.Config{Agent: filepath.Join(t.TempDir(), "none"), Notify: s.say}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.conn.OpenChannel("auth-agent@openssh.com", nil); err == nil || s.all() == "" {
		t.Errorf("got %v and %q said, want a refusal and the reason", err, s.all())
	}
}

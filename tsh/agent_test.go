package tsh_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// startAgent runs OpenSSH's ssh-agent until the test ends.
func startAgent(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil { // it prints once it listens
		t.Fatal(err)
	}
	return socket
}

func dialAgent(t *testing.T, socket string) agent.ExtendedAgent {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return agent.NewClient(conn)
}

// bindSession tells the agent which host the connection is with, as OpenSSH's client does (PROTOCOL.agent
// section 1).
func bindSession(t *testing.T, a agent.ExtendedAgent, h ssh.Signer, session string, forwarding bool) {
	t.Helper()
	sig, err := h.Sign(nil, []byte(session))
	if err != nil {
		t.Fatal(err)
	}
	msg := ssh.Marshal(struct {
		Key        []byte
		Session    string
		Sig        []byte
		Forwarding bool
	}{h.PublicKey().Marshal(), session, ssh.Marshal(sig), forwarding})
	if _, err := a.Extension("session-bind@openssh.com", msg); err != nil {
		t.Fatal(err)
	}
}

// loginRequest is what a client signs to log in (RFC 4252 section 7).
func loginRequest(key ssh.PublicKey, session, method string, host ssh.PublicKey) []byte {
	b := ssh.Marshal(struct {
		Session               string
		Type                  byte
		User, Service, Method string
		Signed                bool
		Algorithm             string
		Key                   []byte
	}{session, 50, "alice", "ssh-connection", method, true, key.Type(), key.Marshal()})
	if host != nil {
		b = append(b, ssh.Marshal(struct{ Key []byte }{host.Marshal()})...)
	}
	return b
}

func TestTheAgentForbidsOnwardHops(t *testing.T) {
	t.Parallel()
	tc, other := newTestCluster(t), newTestCluster(t)
	web1, web2 := tc.addNode("web-1"), tc.addNode("web-2")
	socket := startAgent(t)
	c := tc.client()
	c.env["SSH_AUTH_SOCK"] = socket
	r := c.login(c.browse, "--pin", tc.Pin().String())
	if r.code != 0 || strings.Contains(r.stderr, "not loaded") {
		t.Fatalf("got %d %s", r.code, r.stderr)
	}
	keys, err := dialAgent(t, socket).List()
	if err != nil || len(keys) != 1 || keys[0].Format != ssh.CertAlgoED25519v01 {
		t.Fatalf("got %v (%v), want one certificate", keys, err)
	}
	key, err := ssh.ParsePublicKey(keys[0].Blob)
	if err != nil {
		t.Fatal(err)
	}
	const hostbound = "publickey-hostbound-v00@openssh.com"
	for _, tt := range []struct {
		name string
		try  func(a agent.ExtendedAgent) error
		want bool
	}{
		{"a connection to a node", func(a agent.ExtendedAgent) error {
			bindSession(t, a, web1.cert, "s1", false)
			_, err := a.Sign(key, loginRequest(key, "s1", "publickey", nil))
			return err
		}, true},
		{"a connection to a host of another cluster", func(a agent.ExtendedAgent) error {
			bindSession(t, a, other.newNode("web-1").cert, "s1", false)
			_, err := a.Sign(key, loginRequest(key, "s1", "publickey", nil))
			return err
		}, false},
		{"a hop from a node onwards", func(a agent.ExtendedAgent) error {
			bindSession(t, a, web1.cert, "s1", true)
			bindSession(t, a, web2.cert, "s2", false)
			_, err := a.Sign(key, loginRequest(key, "s2", hostbound, web2.cert.PublicKey()))
			return err
		}, false},
		{"a signature without a session", func(a agent.ExtendedAgent) error {
			_, err := a.Sign(key, []byte("anything"))
			return err
		}, false},
	} {
		if err := tt.try(dialAgent(t, socket)); (err == nil) != tt.want {
			t.Errorf("%s: got %v, want signed %v", tt.name, err, tt.want)
		}
	}
	c.mustLogIn()
	if keys, err := dialAgent(t, socket).List(); err != nil || len(keys) != 1 {
		t.Errorf(
			"after a second login: got %d keys (%v), want the new one instead of the old",
			len(keys),
			err,
		)
	}
	c.ok("logout")
	if keys, err := dialAgent(t, socket).List(); err != nil || len(keys) != 0 {
		t.Errorf("after logout: got %d keys (%v), want none", len(keys), err)
	}
}

// An agent that cannot limit destinations, such as x/crypto's own, gets the key only with
// --add-keys-to-agent=yes.
func TestAnAgentWithoutDestinationsGetsTheKeyOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ring, done := agent.NewKeyring(), make(chan struct{})
	go func() {
		defer close(done)
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			_ = agent.ServeAgent(ring, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	for mode, want := range map[string]int{"auto": 0, "no": 0, "yes": 1} {
		c := tc.client()
		c.env["SSH_AUTH_SOCK"] = socket
		r := c.login(c.browse, "--pin", tc.Pin().String(), "--add-keys-to-agent="+mode)
		keys, err := ring.List()
		if r.code != 0 || err != nil || len(keys) != want {
			t.Errorf("%s: got %d %q, %d keys (%v), want %d", mode, r.code, r.stderr, len(keys), err, want)
		}
		if mode == "auto" && !strings.Contains(r.stderr, "--add-keys-to-agent=yes") {
			t.Errorf("got %q, want the hint how to load it", r.stderr)
		}
		c.ok("logout")
	}
}

// OpenSSH accepts the configuration, the key, the certificate and the known hosts.
func TestOpenSSHReadsTheConfiguration(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	c := tc.loggedIn()
	conf := filepath.Join(t.TempDir(), "conf")
	write(t, conf, []byte(c.ok("config")), 0o600)
	resolve := func(host string) string {
		out, err := exec.Command("ssh", "-G", "-F", conf, host).Output()
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		return string(out)
	}
	command := "proxy ssh --cluster " + clusterName + " '%h'"
	if out := resolve("web-1." + clusterName); !strings.Contains(out, command) ||
		!strings.Contains(out, "identitiesonly yes") {
		t.Errorf("got %q, want tsh as ProxyCommand", out)
	}
	for _, host := range []string{"web-1", "127.0.0.1"} {
		if out := resolve(host); strings.Contains(out, "proxycommand") ||
			!strings.Contains(out, "certificatefile "+c.home) {
			t.Errorf("%s: got %q, want the keys and no ProxyCommand", host, out)
		}
	}
	if out := resolve("elsewhere.example.org"); strings.Contains(out, c.home) {
		t.Errorf("got %q, want nothing of Threshold for other hosts", out)
	}
	dir := filepath.Join(c.home, "clusters", clusterName)
	certFile, keyFile := filepath.Join(dir, "ssh_key-cert.pub"), filepath.Join(dir, "ssh_key")
	out, err := exec.Command("ssh-keygen", "-L", "-f", certFile).Output()
	if err != nil || !bytes.Contains(out, []byte("alice@example.com@"+clusterName)) {
		t.Errorf("got %s (%v), want the certificate read", out, err)
	}
	out, err = exec.Command("ssh-keygen", "-y", "-f", keyFile).Output()
	if err != nil || !bytes.HasPrefix(out, []byte("ssh-ed25519 ")) {
		t.Errorf("got %s (%v), want the key read", out, err)
	}
	hosts := filepath.Join(dir, "known_hosts")
	port := tc.addr[strings.LastIndex(tc.addr, ":")+1:]
	for host, want := range map[string]bool{
		"web-1." + clusterName: true,
		"web-1":                true,
		"[127.0.0.1]:" + port:  true,
		"127.0.0.1":            false,
		"web-1.example.org":    false,
		"[web-1]:2222":         false,
	} {
		// ssh-keygen exits with 1 if it finds none.
		out, _ := exec.Command("ssh-keygen", "-F", host, "-f", hosts).Output()
		if found := bytes.Contains(out, []byte("@cert-authority")); found != want {
			t.Errorf("%s: got known %v, want %v", host, found, want)
		}
	}
}

// Stock ssh connects with the configuration, tsh as ProxyCommand, and the key from a file or only from the
// agent.
func TestOpenSSHConnectsThroughTsh(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1").status = 9
	c := tc.client()
	c.env["SSH_AUTH_SOCK"] = startAgent(t)
	c.mustLogIn()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program, conf := filepath.Join(dir, "tsh"), filepath.Join(dir, "conf")
	if err := os.Symlink(self, program); err != nil { // the test's own binary is tsh when it is called so
		t.Fatal(err)
	}
	text := strings.ReplaceAll(c.ok("config"), self, program)
	write(t, conf, []byte(text), 0o600)
	agentOnly := filepath.Join(dir, "agent-only")
	keyOptions := regexp.MustCompile(`(?m)^ *(IdentityFile|CertificateFile|IdentitiesOnly) .*\n`)
	agentText := keyOptions.ReplaceAllString(text, "") + "    IdentityFile none\n"
	write(t, agentOnly, []byte(agentText), 0o600)
	for name, tt := range map[string]struct{ conf, socket string }{
		"the files": {conf, ""},
		"the agent": {agentOnly, c.env["SSH_AUTH_SOCK"]},
	} {
		cmd := exec.Command("ssh", "-F", tt.conf, "-o", "BatchMode=yes", "alice@web-1."+clusterName, "echo")
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+tt.socket, "HOME="+dir)
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() != 9 || !bytes.Contains(out, []byte(`"cmd":"echo"`)) {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = errors.New(string(exit.Stderr))
			}
			code := cmd.ProcessState.ExitCode()
			t.Errorf("with the key from %s: got %d %s (%v), want the command run", name, code, out, err)
		}
	}
	cmd := exec.Command("ssh", "-F", conf, "-o", "BatchMode=yes", "alice@nosuch."+clusterName, "echo")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "tsh: hint: ") {
		t.Errorf("an unknown node: got %v %q, want the hint of tsh", err, stderr.String())
	}
}

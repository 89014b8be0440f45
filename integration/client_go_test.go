//go:build integration

package integration

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/threshold-access/threshold/integration/harness"
)

// goClient is a connection of x/crypto/ssh with the host certificate that it verified.
type goClient struct {
	*ssh.Client
	host *ssh.Certificate
}

// newGoClient starts an SSH client with the login on a connection. The user's known_hosts must accept the
// host.
func newGoClient(t *testing.T, o *clientFixture, conn net.Conn, address, login string) *goClient {
	t.Helper()
	known, err := knownhosts.New(filepath.Join(o.profile, "known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	g := &goClient{}
	cfg := &ssh.ClientConfig{
		User: login,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(certificate(t, o))},
		HostKeyCallback: func(name string, addr net.Addr, key ssh.PublicKey) error {
			g.host, _ = key.(*ssh.Certificate)
			return known(name, addr, key)
		},
	}
	sc, chans, reqs, err := ssh.NewClientConn(conn, address, cfg)
	if err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	g.Client = ssh.NewClient(sc, chans, reqs)
	t.Cleanup(func() { g.Close() })
	if g.host == nil {
		t.Fatalf("%s presented no certificate", address)
	}
	return g
}

// certificate signs with the user's SSH key and certificate.
func certificate(t *testing.T, o *clientFixture) ssh.Signer {
	t.Helper()
	var parts [2][]byte
	for i, name := range []string{"ssh_key", "ssh_key-cert.pub"} {
		b, err := os.ReadFile(filepath.Join(o.profile, name))
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = b
	}
	plain, err := ssh.ParsePrivateKey(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(pub.(*ssh.Certificate), plain)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// dialProxy connects to the proxy's SSH server.
func dialProxy(t *testing.T, o *clientFixture) *goClient {
	t.Helper()
	conn, err := net.Dial("tcp", o.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	return newGoClient(t, o, conn, o.Proxy, "anyone")
}

// dialNode connects to the first node through a channel of the proxy.
func dialNode(t *testing.T, o *clientFixture, proxy *ssh.Client) *goClient {
	t.Helper()
	conn, err := proxy.Dial("tcp", o.nodes[0]+":22")
	if err != nil {
		t.Fatal(err)
	}
	return newGoClient(t, o, conn, o.nodes[0]+":22", o.account.Username)
}

// goStory uses x/crypto/ssh as a client.
func goStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	c := dialNode(t, o, dialProxy(t, o).Client)
	e.Supports(
		t,
		"through the proxy's channel: a command with its exit status; verifies the host's certificate",
		func(t *testing.T) { runsACommand(t, o, c) },
		harness.Certificate,
		harness.Exec,
		harness.ByJump,
	)
	e.Supports(
		t,
		"uses mlkem768x25519-sha256 and AES-GCM by default",
		func(t *testing.T) {
			got := c.Conn.(ssh.AlgorithmsConnMetadata).Algorithms()
			if got.KeyExchange != ssh.KeyExchangeMLKEM768X25519 || got.Read.Cipher != ssh.CipherAES128GCM ||
				got.Write.Cipher != ssh.CipherAES128GCM {
				t.Errorf("got %+v", got)
			}
		},
	)
	e.Supports(t, "sftp with pkg/sftp", func(t *testing.T) { usesPkgSFTP(t, c) }, harness.SFTP)
	e.Supports(
		t,
		"dials and listens on the node, by TCP and by Unix sockets",
		func(t *testing.T) { goForwards(t, c) },
		harness.Local,
		harness.Remote,
		harness.Sockets,
	)
	e.Supports(t, "forwards an agent", func(t *testing.T) { forwardsAGoAgent(t, o, c) }, harness.Agent)
	e.Supports(t, "40 sessions at once on one connection", func(t *testing.T) {
		for range 40 {
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.Start("cat"); err != nil {
				t.Fatal(err)
			}
		}
	}, harness.Shared)
	e.Lacks(
		t,
		"a key without its certificate, a password and keyboard-interactive are refused",
		func(t *testing.T) { isRefused(t, o) },
	)
}

func runsACommand(t *testing.T, o *clientFixture, c *goClient) {
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var exit *ssh.ExitError
	out, err := s.Output("id -un; exit 3")
	if !errors.As(err, &exit) || exit.ExitStatus() != 3 ||
		strings.TrimSpace(string(out)) != o.account.Username {
		t.Errorf("got %q, %v, want the account and 3", out, err)
	}
}

func usesPkgSFTP(t *testing.T, c *goClient) {
	s, err := sftp.NewClient(c.Client)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.Create("pkg-sftp")
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if _, err := f.ReadFrom(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(data))
	}
	err = errors.Join(f.Close(), s.PosixRename("pkg-sftp", "pkg-sftp.2"), s.Remove("pkg-sftp.2"))
	if err != nil {
		t.Error(err)
	}
}

func goForwards(t *testing.T, c *goClient) {
	dir := sharedDir(t)
	tcp, unix := startEcho(t, "tcp", "127.0.0.1:0"), startEcho(t, "unix", filepath.Join(dir, "server"))
	checkClientEcho(t, func() (net.Conn, error) { return c.Dial("tcp", tcp) })
	checkClientEcho(t, func() (net.Conn, error) { return c.Dial("unix", unix) })
	addresses := map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(dir, "remote")}
	for network, address := range addresses {
		l, err := c.Listen(network, address)
		if err != nil {
			t.Fatalf("listen on %s: %v", network, err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
		checkClientEcho(t, dialer(network, l.Addr().String()))
		<-done
		if err := l.Close(); err != nil {
			t.Errorf("close the listener on %s: %v", network, err)
		}
	}
}

func forwardsAGoAgent(t *testing.T, o *clientFixture, c *goClient) {
	keys := sshagent.NewKeyring()
	file, err := os.ReadFile(filepath.Join(o.profile, "ssh_key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Add(sshagent.AddedKey{PrivateKey: key, Comment: agentKeyComment}); err != nil {
		t.Fatal(err)
	}
	if err := sshagent.ForwardToAgent(c.Client, keys); err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := sshagent.RequestAgentForwarding(s); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Output("ssh-add -l"); err != nil || !strings.Contains(string(out), agentKeyComment) {
		t.Errorf("got %q, %v, want the key listed on the node", out, err)
	}
}

// isRefused tries to log in to a node without a certificate.
func isRefused(t *testing.T, o *clientFixture) {
	proxy := dialProxy(t, o)
	signer := certificate(t, o)
	noAnswers := func(string, string, []string, []bool) ([]string, error) { return nil, nil }
	for name, method := range map[string]ssh.AuthMethod{
		"a bare key":           ssh.PublicKeys(bareSigner{signer}),
		"a password":           ssh.Password("secret"),
		"keyboard-interactive": ssh.KeyboardInteractive(noAnswers),
	} {
		conn, err := proxy.Dial("tcp", o.nodes[0]+":22")
		if err != nil {
			t.Fatal(err)
		}
		cfg := &ssh.ClientConfig{
			User:            o.account.Username,
			Auth:            []ssh.AuthMethod{method},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		}
		if c, _, _, err := ssh.NewClientConn(conn, o.nodes[0], cfg); err == nil {
			c.Close()
			t.Errorf("%s: got logged in, want a refusal", name)
		}
		conn.Close()
	}
}

// bareSigner signs with the key of a certificate and presents the key only.
type bareSigner struct{ ssh.Signer }

func (b bareSigner) PublicKey() ssh.PublicKey { return b.Signer.PublicKey().(*ssh.Certificate).Key }

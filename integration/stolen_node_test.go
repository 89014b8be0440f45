//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member"
)

// thief has the keys of a proxy and a node, and serves both at addr: whoever dials, for whichever node,
// reaches the stolen node, whatever is locked.
type thief struct {
	addr string
	node ssh.Signer
}

// stealMember takes a machine's keys and certificates from its data folder.
func stealMember(t *testing.T, dir string, kind identity.Kind) *member.Member {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "stolen")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	harness.Run(t, nil, nil, "chmod", "-R", "go=", copied).OK(t)
	cfg := member.Config{Dir: copied, Kind: kind, AuthAddr: "127.0.0.1:1"}
	stolen, err := member.LoadOrJoin(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return stolen
}

func startThief(t *testing.T, proxy, node *member.Member) thief {
	t.Helper()
	certificate, err := proxy.TLSCertificate()
	if err != nil {
		t.Fatal(err)
	}
	host, err := node.HostSigner()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	th := thief{ln.Addr().String(), host}
	clustertest.Serve(t, ln, clustertest.Protocol{
		Name:        identity.ALPNDial,
		Certificate: func() *tls.Certificate { return certificate },
		ClientAuth:  tls.RequireAnyClientCert,
		Serve:       func(_ context.Context, conn *tls.Conn) { th.serve(conn) },
	})
	return th
}

// serve accepts every dial request and every login, and answers every command with "stolen".
func (th thief) serve(conn net.Conn) {
	if _, err := dial.ReadRequest(conn); err != nil {
		return
	}
	if dial.WriteReply(conn, dial.Reply{}) != nil {
		return
	}
	anybody := func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }
	cfg := &ssh.ServerConfig{PublicKeyCallback: anybody}
	cfg.AddHostKey(th.node)
	_, chans, reqs, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	for channel := range chans {
		session, requests, err := channel.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			_ = r.Reply(true, nil)
			if r.Type == "exec" {
				_, _ = io.WriteString(session, "stolen\n")
				_, _ = session.SendRequest("exit-status", false, make([]byte, 4))
				_ = session.Close()
			}
		}
	}
}

// hasHeardOfLock reports whether the locks in the client's profile name the machine.
func hasHeardOfLock(t *testing.T, c *harness.Client, id identity.MachineID) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.ProfileDir(), "machine-locks.json"))
	if err != nil {
		t.Fatal(err)
	}
	var kept struct{ Document struct{ Payload []byte } }
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(kept.Document.Payload, []byte(id))
}

// A node is removed, whose disk was stolen, and with it that of the proxy. The thief goes on with the
// certificates of both, and ignores the lock. tsh that has heard of the lock refuses the node, and so does
// OpenSSH through it. tsh that has not heard of it connects: it asks nobody before it connects.
func TestTshRefusesAStolenNodeBehindAStolenProxy(t *testing.T) {
	t.Parallel()
	addr := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, addr, harness.StartProvider(t, "127.0.0.1", addr), "")
	heard, unaware := harness.NewClient(t), harness.NewClient(t)
	alice := heard.FirstLogin(s, harness.Alice())
	node := harness.StartNode(t, addr, heard.Token("node"), "web-1")
	harness.StartNode(t, addr, heard.Token("node"), "web-2")
	stolenNode := stealMember(t, node.Dir, identity.Node)
	th := startThief(t, stealMember(t, filepath.Join(s.Dir, "data", "proxy"), identity.Proxy), stolenNode)
	unaware.LoginAt(addr, s, alice)
	for _, c := range []*harness.Client{heard, unaware} {
		c.Tsh("ssh", "web-1", "true").OK(t)
	}

	heard.Tsh("rm", "node", "web-1").OK(t)
	harness.Eventually(t, "tsh has heard of the lock from the proxy, which is honest yet", func() bool {
		heard.Tsh("ssh", "web-2", "true").OK(t)
		return hasHeardOfLock(t, heard, stolenNode.Identity().ID)
	})

	openSSH := func(c *harness.Client) *exec.Cmd {
		config := harness.WriteFile(t, c.Home, "ssh_config", c.Tsh("config").OK(t))
		host := harness.Account(t) + "@web-1." + harness.ClusterName
		cmd := exec.Command("ssh", "-F", config, "-o", "BatchMode=yes", host, "true")
		cmd.Env = c.Command().Env
		return cmd
	}
	withLock, withoutLock := openSSH(heard), openSSH(unaware)
	heard.UseRelay(th.addr)
	unaware.UseRelay(th.addr)

	r := heard.Tsh("ssh", "web-1", "true")
	if r.Code != 255 || strings.Contains(r.Stdout, "stolen") {
		t.Errorf("got %+v, want the stolen node refused", r)
	}
	contains(t, r.Stderr, "node web-1 may not be used: lock ", "who made the lock")
	out, err := withLock.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "may not be used: lock ") {
		t.Errorf("OpenSSH: got %s (%v), want the stolen node refused", out, err)
	}
	byTsh := unaware.Command("ssh", "web-1", "true")
	for name, cmd := range map[string]*exec.Cmd{"tsh": byTsh, "ssh": withoutLock} {
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "stolen\n" {
			t.Errorf("%s without the lock: got %s (%v), want a connection to the thief", name, out, err)
		}
	}
}

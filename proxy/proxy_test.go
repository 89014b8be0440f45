package proxy

import (
	"bufio"
	"context"
	"crypto"
	"crypto/tls"

	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// membership is the proxy's own, without a disk.
type membership struct {
	cluster
	client *authrpc.Client
}

type cluster = *proxytest.Auth

func (m membership) HostSigner() (ssh.Signer, error) { return m.HostKey() }
func (m membership) Auth() *authrpc.Client           { return m.client }
func (m membership) FirstRules() signed.Set          { return m.SignRules() }
func (m membership) Run(ctx context.Context) error   { <-ctx.Done(); return nil }

var ops = access.Role{
	Name: "ops",
	Allow: []access.Grant{
		{
			Nodes:   map[string]access.Strings{"*": {"*"}},
			Logins:  access.Strings{"ubuntu"},
			Actions: access.Strings{"shell"},
		},
	},
}

// testProxy is a whole proxy.
type testProxy struct {
	*proxytest.Auth
	t     *testing.T
	proxy *Proxy
	addr  string
	stop  func() error
}

func startProxy(t *testing.T, drain time.Duration, change ...func(*Config)) *testProxy {
	t.Helper()
	a := proxytest.New(t)
	a.SetRoles(ops)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Listener: ln,
		Public:   []string{ln.Addr().String()},
		Dir:      t.TempDir(),
		AuthAddr: a.Addr(),
		Version:  "v1",
		Drain:    drain,
		Log:      proxytest.Log(),
	}
	for _, c := range change {
		c(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	client := membership{a, a.Client()}
	ran := make(chan error, 1)
	go func() { ran <- p.run(ctx, func(context.Context) (Member, error) { return client, nil }) }()
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := &testProxy{Auth: a, t: t, proxy: p, addr: ln.Addr().String()}
	d.stop = func() error { cancel(); return <-ran }
	t.Cleanup(func() {
		cancel()
		client.client.Close()
	})
	return d
}

// attach makes a node that echoes on every session stream.
func (d *testProxy) attach(name string) *tunnel.Uplink {
	d.t.Helper()
	id := d.Machine(identity.Node, name, nil)
	cert := d.MachineCertificate(id, nil)
	conn := d.dialTLS(identity.ALPNTunnel, cert)
	u, err := tunnel.Connect(d.t.Context(), conn, cert.PrivateKey.(crypto.Signer), id.ID, "v9", time.Now)
	if err != nil {
		d.t.Fatal(err)
	}
	go func() {
		for {
			c, _, err := u.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	d.t.Cleanup(func() { u.Close() })
	return u
}

func (d *testProxy) dialTLS(alpn string, cert *tls.Certificate) *tls.Conn {
	d.t.Helper()
	cfg := identity.PinnedTLS(
		d.Pin(),
		membertest.Name,
		alpn,
		func() (*tls.Certificate, error) { return cert, nil },
		time.Now,
		identity.Proxy,
	)
	conn, err := tls.Dial("tcp", d.addr, cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	return conn
}

func (d *testProxy) browser() *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	d.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func echo(t *testing.T, rw io.ReadWriter) {
	t.Helper()
	if _, err := io.WriteString(rw, "hello\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(rw).ReadString('\n')
	if err != nil || line != "hello\n" {
		t.Fatalf("got %q, %v, want the bytes back", line, err)
	}
}

func TestOnePortServesEveryProtocol(t *testing.T) {
	d := startProxy(t, time.Second)
	d.attach("web-1")

	// tsh, by the dial protocol
	alice := d.User("alice@example.com", "ops")
	conn := dial.Client(
		d.dialTLS(identity.ALPNDial, d.UserCertificate(alice, nil)),
		dial.Request{Node: "web-1"},
	)
	echo(t, conn)
	conn.Close()

	// stock ssh -J
	raw, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	sc, chans, reqs, err := ssh.NewClientConn(
		raw,
		d.addr,
		&ssh.ClientConfig{
			User: "whoever",
			Auth: []ssh.AuthMethod{ssh.PublicKeys(d.UserSigner(alice, nil, "ubuntu"))},
			HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
				return identity.VerifySSHHost(
					key,
					"127.0.0.1",
					[]ssh.PublicKey{d.HostAuthority()},
					time.Now(),
				)
			},
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	jumped, err := ssh.NewClient(sc, chans, reqs).Dial("tcp", "web-1:22")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, jumped)
	sc.Close()

	// a browser, and tsh before its first login
	resp, err := d.browser().Get("https://" + d.addr + dial.PingPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var ping dial.Ping
	if err := json.NewDecoder(resp.Body).Decode(&ping); err != nil || ping.Pin != d.Pin() ||
		ping.Cluster != membertest.Name ||
		resp.ProtoMajor != 2 {
		t.Errorf("got ping %+v over HTTP/%d, %v, want the cluster's over HTTP/2", ping, resp.ProtoMajor, err)
	}

	// auth, unopened: the certificate seen is auth's own
	through := authrpc.NewClient(
		d.addr,
		identity.PinnedTLS(
			d.Pin(),
			membertest.Name,
			identity.ALPNAuth,
			d.TLSCertificate,
			time.Now,
			identity.Auth,
		),
	)
	defer through.Close()
	if _, err := authrpc.Call(t.Context(), through, authrpc.LocateNode, authrpc.LocateNodeRequest{Node: "x"}); err != nil {
		t.Errorf("auth through the proxy: %v", err)
	}

	if r := <-d.Reports; len(r.Attached) > 1 {
		t.Errorf("got %d nodes reported, want at most one", len(r.Attached))
	}
	if err := d.stop(); err != nil {
		t.Errorf("got %v at the stop, want none", err)
	}
}

func TestStopDrainsASession(t *testing.T) {
	d := startProxy(t, time.Minute)
	d.attach("web-1")
	conn := dial.Client(
		d.dialTLS(identity.ALPNDial, d.UserCertificate(d.User("alice@example.com", "ops"), nil)),
		dial.Request{Node: "web-1"},
	)
	echo(t, conn)
	stopped := make(chan error, 1)
	go func() { stopped <- d.stop() }()
	for { // until the port is shut
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			break
		}
		c.Close()
	}
	echo(t, conn)
	conn.Close()
	if err := <-stopped; err != nil {
		t.Errorf("got %v, want a clean stop once the session ended", err)
	}
}

// Clients keep idle connections to auth open; a stop does not wait for those.
func TestStopDoesNotWaitForIdleConnectionsToAuth(t *testing.T) {
	d := startProxy(t, time.Minute)
	through := authrpc.NewClient(
		d.addr,
		identity.PinnedTLS(
			d.Pin(),
			membertest.Name,
			identity.ALPNAuth,
			d.TLSCertificate,
			time.Now,
			identity.Auth,
		),
	)
	defer through.Close()
	if _, err := authrpc.Call(t.Context(), through, authrpc.LocateNode, authrpc.LocateNodeRequest{Node: "x"}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("got stopped after %s, want well before the time to drain is over", took)
	}
}

func TestStopCutsSessionsAfterTheDrain(t *testing.T) {
	d := startProxy(t, 50*time.Millisecond)
	d.attach("web-1")
	conn := dial.Client(
		d.dialTLS(identity.ALPNDial, d.UserCertificate(d.User("alice@example.com", "ops"), nil)),
		dial.Request{Node: "web-1"},
	)
	echo(t, conn)
	if err := d.stop(); err != nil {
		t.Errorf("got %v, want a clean stop", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("got bytes after the stop")
	}
	conn.Close()
}

func TestNewReportsEveryFault(t *testing.T) {
	_, err := New(Config{Public: []string{":443"}, CertFile: "x"})
	if err == nil {
		t.Fatal("got a proxy of nothing, want an error")
	}
	for _, want := range []string{"listener", "log", "data directory", "has no host", "key file", "auth address"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %q", err, want)
		}
	}
}

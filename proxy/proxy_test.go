package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
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
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// membership is a Member without a disk.
type membership struct {
	cluster
	client *authrpc.Client
}

type cluster = *proxytest.Auth

func (m membership) HostSigner() (ssh.Signer, error) { return m.HostKey() }
func (m membership) Auth() *authrpc.Client           { return m.client }
func (m membership) FirstRules() signed.Set          { return m.SignRules() }
func (m membership) Run(ctx context.Context) error   { <-ctx.Done(); return nil }

// ops may reach every node.
var ops = access.Role{
	Name: "ops",
	Allow: []access.Grant{{
		Nodes:   map[string]access.Strings{"*": {"*"}},
		Logins:  access.Strings{"ubuntu"},
		Actions: access.Strings{"shell"},
	}},
}

// testProxy is a whole proxy that runs.
type testProxy struct {
	*proxytest.Auth
	t     *testing.T
	proxy *Proxy
	addr  string
	stop  func() error // stops the proxy and returns the error of Run
}

// startProxy starts a proxy on a free port. The changes adapt its configuration.
func startProxy(t *testing.T, drain time.Duration, changes ...func(*Config)) *testProxy {
	t.Helper()
	auth := proxytest.New(t)
	auth.SetRoles(ops)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Listener: listener,
		Public:   []string{listener.Addr().String()},
		Dir:      t.TempDir(),
		AuthAddr: auth.Addr(),
		Version:  "v1",
		Drain:    drain,
		Log:      proxytest.Log(),
	}
	for _, change := range changes {
		change(&cfg)
	}
	proxy, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := membership{auth, auth.Client()}
	ran := make(chan error, 1)
	go func() { ran <- proxy.run(ctx, func(context.Context) (Member, error) { return m, nil }) }()
	if err := proxy.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := &testProxy{Auth: auth, t: t, proxy: proxy, addr: listener.Addr().String()}
	p.stop = func() error { cancel(); return <-ran }
	t.Cleanup(func() {
		cancel()
		m.client.Close()
	})
	return p
}

// attach attaches a node that echoes on every stream.
func (p *testProxy) attach(name string) *tunnel.Uplink {
	p.t.Helper()
	id := p.Machine(identity.Node, name, nil)
	cert := p.MachineCertificate(id, nil)
	conn := p.dialTLS(identity.ALPNTunnel, cert)
	u, err := tunnel.Connect(p.t.Context(), conn, proxytest.Greeting(id.ID, cert, "v9"))
	if err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-u.Rules(): // which the proxy sends when the node can be reached
	case <-u.Done():
		p.t.Fatal("the tunnel has ended")
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
	p.t.Cleanup(func() { u.Close() })
	return u
}

// tlsConfig is the configuration of a client of a threshold-* protocol.
func (p *testProxy) tlsConfig(alpn string, cert *tls.Certificate) *tls.Config {
	own := func() (*tls.Certificate, error) { return cert, nil }
	return identity.PinnedTLS(p.Pin(), clustertest.Name, alpn, own, time.Now, identity.Proxy)
}

// authTLSConfig is the configuration of a client of the auth service, with the certificate of the proxy.
func (p *testProxy) authTLSConfig() *tls.Config {
	return identity.PinnedTLS(
		p.Pin(), clustertest.Name, identity.ALPNAuth, p.TLSCertificate, time.Now, identity.Auth)
}

func (p *testProxy) dialTLS(alpn string, cert *tls.Certificate) *tls.Conn {
	p.t.Helper()
	conn, err := tls.Dial("tcp", p.addr, p.tlsConfig(alpn, cert))
	if err != nil {
		p.t.Fatal(err)
	}
	return conn
}

// userCertificate is a certificate of alice, who has the role ops.
func (p *testProxy) userCertificate() *tls.Certificate {
	return p.UserCertificate(p.User("alice@example.com", "ops"), nil)
}

// dialNode connects as alice to the node web-1, with the dial protocol over TLS.
func (p *testProxy) dialNode() net.Conn {
	p.t.Helper()
	return dial.Client(p.dialTLS(identity.ALPNDial, p.userCertificate()), dial.Request{Node: "web-1"})
}

// browser is an HTTP/2 client.
func (p *testProxy) browser() *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// waitUntilPortIsClosed returns once the proxy accepts no more connections.
func (p *testProxy) waitUntilPortIsClosed() {
	for {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			return
		}
		c.Close()
	}
}

// callAuth makes a call to the auth service and fails the test if there is no answer.
func callAuth(t *testing.T, client *authrpc.Client) {
	t.Helper()
	req := authrpc.LocateNodeRequest{Node: "x"}
	if _, err := authrpc.Call(t.Context(), client, authrpc.LocateNode, req); err != nil {
		t.Fatalf("call to the auth service through the proxy: %v", err)
	}
}

// echo sends a line and expects it back.
func echo(t *testing.T, rw io.ReadWriter) {
	t.Helper()
	if _, err := io.WriteString(rw, "hello\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(rw).ReadString('\n')
	if err != nil || line != "hello\n" {
		t.Fatalf("got %q, %v, want the line back", line, err)
	}
}

// tsh, a stock ssh -J, a browser and a caller of the auth service all connect to the same port. Each is
// served by its own server, and the stop is clean.
func TestOnePortServesEveryProtocol(t *testing.T) {
	t.Parallel()
	running := startProxy(t, time.Second)
	running.attach("web-1")

	// tsh, with the dial protocol
	conn := running.dialNode()
	echo(t, conn)
	conn.Close()

	// a stock ssh -J
	raw, err := net.Dial("tcp", running.addr)
	if err != nil {
		t.Fatal(err)
	}
	alice := running.UserSigner(running.User("alice@example.com", "ops"), nil, "ubuntu")
	sc, chans, reqs, err := ssh.NewClientConn(raw, running.addr, &ssh.ClientConfig{
		User: "anybody",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(alice)},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			authorities := []ssh.PublicKey{running.HostAuthority()}
			return identity.VerifySSHHost(key, "127.0.0.1", authorities, time.Now())
		},
	})
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
	resp, err := running.browser().Get("https://" + running.addr + dial.PingPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var ping dial.Ping
	if err := json.NewDecoder(resp.Body).Decode(&ping); err != nil {
		t.Fatal(err)
	}
	if ping.Pin != running.Pin() || ping.Cluster != clustertest.Name || resp.ProtoMajor != 2 {
		t.Errorf("got ping %+v over HTTP/%d, want the cluster's over HTTP/2", ping, resp.ProtoMajor)
	}

	// the auth service: the client sees its certificate, so TLS does not end at the proxy
	client := authrpc.NewClient(running.addr, running.authTLSConfig())
	defer client.Close()
	callAuth(t, client)

	if r := <-running.Reports; len(r.Attached) > 1 {
		t.Errorf("got %d nodes reported, want at most one", len(r.Attached))
	}
	if err := running.stop(); err != nil {
		t.Errorf("got %v at the stop, want none", err)
	}
}

func TestStopDrainsASession(t *testing.T) {
	t.Parallel()
	p := startProxy(t, time.Minute)
	p.attach("web-1")
	conn := p.dialNode()
	echo(t, conn)
	stopped := make(chan error, 1)
	go func() { stopped <- p.stop() }()
	p.waitUntilPortIsClosed()
	echo(t, conn)
	conn.Close()
	if err := <-stopped; err != nil {
		t.Errorf("got %v, want a clean stop once the session has ended", err)
	}
}

// Clients keep idle connections to the auth service open. A stop does not wait for them.
func TestStopDoesNotWaitForIdleConnectionsToAuth(t *testing.T) {
	t.Parallel()
	p := startProxy(t, time.Minute)
	client := authrpc.NewClient(p.addr, p.authTLSConfig())
	defer client.Close()
	callAuth(t, client)
	start := time.Now()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("got stopped after %s, want long before the drain time is over", took)
	}
}

func TestStopCutsSessionsAfterTheDrain(t *testing.T) {
	t.Parallel()
	p := startProxy(t, 50*time.Millisecond)
	p.attach("web-1")
	conn := p.dialNode()
	echo(t, conn)
	if err := p.stop(); err != nil {
		t.Errorf("got %v, want a clean stop", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("got a byte after the stop, want the connection closed")
	}
	conn.Close()
}

// A proxy whose configuration does not say how long sessions may go on asks the settings of the cluster.
func TestStopCutsSessionsAfterTheDrainOfTheSettings(t *testing.T) {
	t.Parallel()
	p := startProxy(t, 0)
	changed := p.proxy.carrier.Changed()
	p.SetSettings(access.Settings{Drain: access.Duration(time.Second)})
	p.Publish(p.SignRules())
	<-changed
	if got := p.proxy.DrainTime(); got != time.Second {
		t.Errorf("got a drain time of %s, want that of the settings", got)
	}
	p.attach("web-1")
	conn := p.dialNode()
	echo(t, conn)
	start := time.Now()
	if err := p.stop(); err != nil {
		t.Errorf("got %v, want a clean stop", err)
	}
	if took := time.Since(start); took < time.Second || took > 9*time.Second {
		t.Errorf("got stopped after %s, want the drain time of the settings", took)
	}
	conn.Close()
}

func TestNewReportsEveryFault(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Public: []string{":443"}, CertFile: "x"})
	if err == nil {
		t.Fatal("got a proxy without a configuration, want an error")
	}
	for _, want := range []string{
		"listener", "log", "data directory", "has no host", "key file", "auth address",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

// If the proxy cannot start, Run and Ready return the same fault, which has a remedy, and the port is closed.
func TestStartFailuresReachRunAndReady(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	noToken := faulttest.New(fault.Unauthenticated, "test", "no token", "ask for one")
	for _, tt := range []struct {
		name     string
		certFile string
		load     func(context.Context) (Member, error)
		want     fault.Kind
	}{
		{
			"no membership", "",
			func(context.Context) (Member, error) { return nil, noToken },
			fault.Unauthenticated,
		},
		{
			"no certificate", "/nonexistent",
			func(context.Context) (Member, error) { return membership{auth, nil}, nil },
			fault.Invalid,
		},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(Config{
			Listener: listener,
			Public:   []string{"proxy.example.com"},
			Dir:      t.TempDir(),
			AuthAddr: auth.Addr(),
			CertFile: tt.certFile,
			KeyFile:  tt.certFile,
			Log:      proxytest.Log(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() { ran <- p.run(t.Context(), tt.load) }()
		ready := p.Ready(t.Context())
		if err := <-ran; !fault.Is(err, tt.want) || !errors.Is(ready, err) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v from Run and %v from Ready, want %s with a remedy from both",
				tt.name, err, ready, tt.want)
		}
		if _, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			t.Errorf("%s: got the port still open", tt.name)
		}
	}
}

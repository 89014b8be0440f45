package egress_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/testnet"
)

var discard = log.New(io.Discard, "", 0)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// httpProxy replies to CONNECT as a test says. It connects every tunnel to the address to, whatever was
// requested, so that tests can request names that are not this machine's own.
type httpProxy struct {
	net.Listener
	to    string // "": the tunnel echoes
	reply string // "": 200
	early string // the first bytes of the tunnel, sent with the reply

	mu       sync.Mutex // guards asked
	requests []string   // heads of the requests
	handlers sync.WaitGroup
}

func (p *httpProxy) start(t *testing.T) *httpProxy {
	t.Helper()
	var err error
	if p.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	p.handlers.Go(func() {
		for {
			conn, err := p.Accept()
			if err != nil {
				return
			}
			p.handlers.Go(func() { defer conn.Close(); p.serve(conn) })
		}
	})
	t.Cleanup(func() { p.Close(); p.handlers.Wait() })
	return p
}

// serve answers one request for a tunnel: with reply if that is set, and otherwise by a tunnel to the address
// to, or to an echo where there is none.
func (p *httpProxy) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if head.WriteString(line); line == "\r\n" {
			break
		}
	}
	p.mu.Lock()
	p.requests = append(p.requests, head.String())
	p.mu.Unlock()
	if p.reply != "" {
		io.WriteString(conn, p.reply)
		return
	}
	io.WriteString(conn, "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n"+p.early)
	if p.to == "" {
		io.Copy(conn, r)
		return
	}
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	go func() { io.Copy(up, r); up.Close() }()
	io.Copy(conn, up)
}

func (p *httpProxy) requestHeads() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

func (p *httpProxy) url(user string) string {
	if user != "" {
		user += "@"
	}
	return "http://" + user + p.Addr().String()
}

func newDialer(t *testing.T, cfg egress.Config) *egress.Dialer {
	t.Helper()
	dialer, err := egress.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return dialer
}

// echo sends a text over a connection that echoes, and returns what came back.
func echo(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// CONNECT is sent with the host and, if the URL has one, the password. Bytes that came with the reply are
// read first, and then the tunnel works both ways.
func TestATunnelThroughAnHTTPProxy(t *testing.T) {
	t.Parallel()
	proxy := (&httpProxy{early: "first "}).start(t)
	for _, tt := range []struct{ address, authorization string }{
		{proxy.url(""), ""},
		{proxy.Addr().String(), ""}, // http:// is assumed
		{proxy.url("alice:p%40ss"), "Proxy-Authorization: Basic YWxpY2U6cEBzcw==\r\n"},
	} {
		conn, err := newDialer(
			t,
			egress.Config{HTTPSProxy: tt.address},
		).DialContext(t.Context(), "tcp", "access.example.com:443")
		if err != nil {
			t.Fatal(err)
		}
		early := make([]byte, 6)
		if _, err := io.ReadFull(conn, early); err != nil || string(early) != "first " {
			t.Errorf("got %q, %v, want the first bytes of the tunnel", early, err)
		}
		if got := echo(t, conn, "hello"); got != "hello" {
			t.Errorf("got %q back, want hello", got)
		}
		conn.Close()
		heads := proxy.requestHeads()
		head := heads[len(heads)-1]
		const want = "CONNECT access.example.com:443 HTTP/1.1\r\nHost: access.example.com:443\r\n"
		if !strings.HasPrefix(head, want) || !strings.Contains(head, tt.authorization) ||
			tt.authorization == "" && strings.Contains(head, "Authorization") {
			t.Errorf("got request %q, want CONNECT with %q", head, tt.authorization)
		}
	}
}

// NO_PROXY has the meaning that Go and curl give it, and this machine is always reached directly. The proxy
// refuses everything, so a refusal shows that the connection went to it; direct connections fail by their
// context.
func TestWhichAddressesUseTheProxy(t *testing.T) {
	t.Parallel()
	proxy := (&httpProxy{reply: "HTTP/1.1 403 Forbidden\r\n\r\n"}).start(t)
	here, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	_, port, _ := net.SplitHostPort(here.Addr().String())
	dead, cancel := context.WithCancel(t.Context())
	cancel() // a direct connection fails at once
	for _, tt := range []struct {
		addr, no string
		proxied  bool
	}{
		{"access.example.com:443", "", true},
		{"access.example.com:443", "example.org, .example.net", true},
		{"access.example.com:443", "example.com", false},
		{"access.example.com:443", ".example.com", false},
		{"access.example.com:443", "*", false},
		{"access.example.com:443", "access.example.com:8443", true},
		{"198.51.100.7:443", "198.51.100.0/24", false},
		{"[2001:db8::7]:443", "2001:db8::/32", false},
		{"[2001:db8::7]:443", "", true},
		{"localhost:443", "", false},
		{"127.0.0.1:" + port, "", false},
		{"[::1]:443", "", false},
	} {
		ctx := t.Context()
		if !tt.proxied {
			ctx = dead
		}
		_, err := newDialer(
			t,
			egress.Config{HTTPSProxy: proxy.url(""), NoProxy: tt.no},
		).DialContext(ctx, "tcp", tt.addr)
		if got := fault.Is(err, fault.Denied); got != tt.proxied {
			t.Errorf(
				"%s with NO_PROXY=%q: got through the proxy: %v (%v), want %v",
				tt.addr, tt.no, got, err, tt.proxied,
			)
		}
	}
}

// Each refusal of an HTTP proxy becomes a fault with a remedy that names the proxy. It repeats neither the
// password nor the proxy's own text.
func TestRefusalsOfAnHTTPProxy(t *testing.T) {
	t.Parallel()
	const ask = "Proxy-Authenticate: Basic realm=\"x\"\r\n"
	for _, tt := range []struct {
		name, user, reply string
		kind              fault.Kind
		says              string
	}{
		{"no password was given", "", "HTTP/1.1 407 Proxy Authentication Required\r\n" + ask + "\r\n",
			fault.Unauthenticated, "wants a password"},
		{"a wrong password was given", "alice:tell-nobody",
			"HTTP/1.1 407 Proxy Authentication Required\r\n" + ask +
				"\r\n", fault.Unauthenticated, `does not accept the password for "alice"`},
		{"a wrong password was given, to a proxy that replies 401", "alice:tell-nobody",
			"HTTP/1.0 401 Unauthorized\r\n\r\n", fault.Unauthenticated, "does not accept the password"},
		{"only Kerberos and NTLM are accepted", "alice:tell-nobody",
			"HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n", fault.Unauthenticated, "accepts no password"},
		{"it is forbidden", "", "HTTP/1.1 403 \x1b[31mred\r\n\r\n", fault.Denied,
			"refuses CONNECT to access.example.com:443: 403 Forbidden"},
		{"it is not known", "", "HTTP/1.0 404 Not Found\r\n\r\n", fault.Denied, "404 Not Found"},
		{"it cannot connect", "", "HTTP/1.1 502 Bad Gateway\r\n\r\n", fault.Unavailable,
			"cannot connect to access.example.com:443: 502 Bad Gateway"},
		{"it is no HTTP", "", "SSH-2.0-OpenSSH_9.9\r\n\r\n", fault.Invalid, "is not an HTTP proxy"},
		{"the answer has no end", "", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", 4<<10),
			fault.Invalid, "is not an HTTP proxy"},
		{"a line has no end", "", "HTTP/1.1 200 " + strings.Repeat("O", 64<<10), fault.Invalid,
			"is not an HTTP proxy"},
		{"it hangs up", "", "HTTP/1.1 200 OK\r\nX-A", fault.Unavailable, "does not answer CONNECT"},
	} {
		proxy := (&httpProxy{reply: tt.reply}).start(t)
		_, err := newDialer(
			t,
			egress.Config{HTTPSProxy: proxy.url(tt.user)},
		).DialContext(t.Context(), "tcp", "access.example.com:443")
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.says) ||
			!strings.Contains(fault.Message(err), proxy.Addr().String()) ||
			fault.Remedy(err) == "" {
			t.Errorf(
				"%s: got %v (%s), want %s with %q, the proxy and what to do",
				tt.name, err, fault.KindOf(err), tt.kind, tt.says,
			)
		}
		if strings.Contains(err.Error(), "tell-nobody") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: got %q, want neither the password nor the proxy's own text", tt.name, err)
		}
	}
}

// Waiting for the HTTP proxy ends with the context.
func TestAnHTTPProxyThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = newDialer(
		t,
		egress.Config{HTTPSProxy: silent.Addr().String()},
	).DialContext(ctx, "tcp", "access.example.com:443")
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("got %v, want no answer in time", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err = newDialer(t, egress.Config{HTTPSProxy: silent.Addr().String()}).DialContext(ctx, "tcp",
		"access.example.com:443"); err == nil {
		t.Error("got a connection after the context ended")
	}
}

func TestNewRefusesBadProxyAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"socks5://bob:tell-nobody@127.0.0.1:1080", "ftp://x", "http://",
		"http://bob:tell-nobody@", "http://bob:tell%nobody@host:1", "http://host:port"} {
		_, err := egress.New(egress.Config{HTTPSProxy: address})
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" ||
			!strings.Contains(err.Error(), "HTTPS_PROXY") {
			t.Errorf("%s: got %v, want an invalid fault that names HTTPS_PROXY", address, err)
		} else if strings.Contains(err.Error(), "nobody") {
			t.Errorf("got %q, want no password in it", err)
		}
	}
}

func TestConfigFromEnv(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		vars map[string]string
		want egress.Config
	}{
		{map[string]string{"HTTPS_PROXY": "a", "NO_PROXY": "b"},
			egress.Config{HTTPSProxy: "a", NoProxy: "b"}},
		{map[string]string{"HTTPS_PROXY": "a", "https_proxy": "c", "NO_PROXY": "b", "no_proxy": "d"},
			egress.Config{HTTPSProxy: "c", NoProxy: "d"}},
		{map[string]string{"HTTP_PROXY": "a", "http_proxy": "a", "ALL_PROXY": "a"}, egress.Config{}},
	} {
		if got := egress.ConfigFromEnv(func(k string) string { return tt.vars[k] }); got != tt.want {
			t.Errorf("%v: got %+v, want %+v", tt.vars, got, tt.want)
		}
	}
}

func TestHasPassword(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{"http://a:b@c:1": true, "a:b@c:1": true, "http://a@c:1": false,
		"c:1": false, "": false} {
		if got := egress.HasPassword(address); got != want {
			t.Errorf("%q: got %v, want %v", address, got, want)
		}
	}
}

// balancedProxy is a proxy of ours behind a balancer: its ping document, and a WebSocket inside which TLS
// ends.
type balancedProxy struct {
	*httptest.Server
	transport dial.Transport
	keepAlive time.Duration

	mu       sync.Mutex // guards pings
	pings    int
	handlers sync.WaitGroup
}

const innerALPN = "threshold-dial"

// startBalancedProxy starts a web server that stands for a balancer and the proxy behind it: it serves the
// ping document, and runs a TLS server that echoes inside each WebSocket.
func startBalancedProxy(t *testing.T, transport dial.Transport) *balancedProxy {
	t.Helper()
	balanced := &balancedProxy{transport: transport, keepAlive: egress.KeepAliveInterval}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+dial.PingPath, func(w http.ResponseWriter, r *http.Request) {
		balanced.mu.Lock()
		defer balanced.mu.Unlock()
		balanced.pings++
		json.NewEncoder(w).Encode(dial.Ping{V: 1, Transport: balanced.transport})
	})
	mux.HandleFunc("GET "+dial.ConnectPath, func(w http.ResponseWriter, r *http.Request) {
		if balanced.transport != dial.WebSocket {
			http.Error(w, "no WebSockets here", http.StatusForbidden)
			return
		}
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		at := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(r.RemoteAddr))
		balanced.handlers.Go(func() { balanced.echo(egress.NewStream(ws, at, at, balanced.keepAlive)) })
	})
	balanced.Server = httptest.NewUnstartedServer(mux)
	balanced.Config.ErrorLog = discard
	balanced.StartTLS()
	t.Cleanup(func() { balanced.Close(); balanced.handlers.Wait() })
	return balanced
}

// echo sends everything back, and "end" after the peer has closed its direction.
func (s *balancedProxy) echo(conn net.Conn) {
	defer conn.Close()
	tc := tls.Server(conn, &tls.Config{Certificates: s.TLS.Certificates, NextProtos: []string{innerALPN}})
	if _, err := io.Copy(tc, tc); err == nil {
		io.WriteString(tc, "end")
		tc.CloseWrite()
	}
}

func (s *balancedProxy) pingCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pings
}

// clientConfig checks the certificate only inside, as identity.PinnedTLS does.
func (s *balancedProxy) clientConfig() *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true,
		NextProtos:         []string{innerALPN},
		VerifyConnection: func(st tls.ConnectionState) error {
			if st.NegotiatedProtocol != innerALPN {
				return errors.New("the server does not speak " + innerALPN)
			}
			return nil
		},
	}
}

// The TLS connection inside a WebSocket carries a megabyte both ways, and its half-close arrives, directly
// and through an HTTP proxy as well.
func TestTheInnerTLSGoesThroughAWebSocket(t *testing.T) {
	t.Parallel()
	balanced := startBalancedProxy(t, dial.WebSocket)
	addr := balanced.Listener.Addr().String()
	corporate := (&httpProxy{to: addr}).start(t)
	for _, tt := range []struct{ name, addr, proxy string }{
		{"directly", addr, ""},
		{"through an HTTP proxy", "access.example.com:443", corporate.url("alice:secret")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dialer := newDialer(t, egress.Config{HTTPSProxy: tt.proxy})
			dialer.SetTransport(tt.addr, dial.WebSocket)
			conn, err := dialer.DialTLS(t.Context(), tt.addr, balanced.clientConfig())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
			go io.WriteString(conn, big)
			got := make([]byte, len(big))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != big {
				t.Fatalf("got %d bytes, %v, want the same 1 MiB back", len(got), err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(conn); err != nil || string(rest) != "end" {
				t.Errorf("got %q, %v after the half-close, want what the other end still says", rest, err)
			}
		})
	}
}

// A Dialer that learns transports fetches the ping document once and uses what it says. A Dialer that does
// not learn uses TLS.
func TestThePingDocumentDecidesTheTransport(t *testing.T) {
	t.Parallel()
	balanced := startBalancedProxy(t, dial.WebSocket)
	addr := balanced.Listener.Addr().String()
	dialer := newDialer(t, egress.Config{LearnTransport: true})
	for range 2 {
		conn, err := dialer.DialTLS(t.Context(), addr, balanced.clientConfig())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if got := balanced.pingCount(); got != 1 {
		t.Errorf("got %d pings, want one for both connections", got)
	}
	// Without a transport, TLS is used.
	byTLS := newDialer(t, egress.Config{})
	if conn, err := byTLS.DialTLS(t.Context(), addr, balanced.clientConfig()); err == nil {
		conn.Close()
		t.Error("got a connection by a transport that was not set")
	}
}

// An administrator puts a balancer in front of a proxy, or takes it away.
func TestAFailedConnectionLearnsTheTransportAgain(t *testing.T) {
	t.Parallel()
	balanced := startBalancedProxy(t, dial.WebSocket)
	addr := balanced.Listener.Addr().String()
	dialer := newDialer(t, egress.Config{LearnTransport: true})
	dialer.SetTransport(addr, dial.TLS) // as it was
	if _, err := dialer.DialTLS(t.Context(), addr, balanced.clientConfig()); err == nil {
		t.Fatal("got a connection without the WebSocket")
	}
	conn, err := dialer.DialTLS(t.Context(), addr, balanced.clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	balanced.transport = dial.TLS
	_, err = dialer.DialTLS(t.Context(), addr, balanced.clientConfig())
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v, want the refused WebSocket named", err)
	}
	before := balanced.pingCount()
	dialer.DialTLS(t.Context(), addr, balanced.clientConfig())
	if got := balanced.pingCount(); got != before+1 {
		t.Errorf("got %d pings, want one more", got-before)
	}

	balanced.Close()
	if _, err := dialer.DialTLS(t.Context(), addr, balanced.clientConfig()); err == nil {
		t.Error("got a connection to a closed proxy")
	}
}

func TestAProxyWithoutAPingDocumentGetsTLS(t *testing.T) {
	t.Parallel()
	plain := httptest.NewUnstartedServer(http.NotFoundHandler())
	plain.TLS = &tls.Config{NextProtos: []string{innerALPN, "http/1.1"}}
	plain.Config.ErrorLog = discard
	plain.StartTLS()
	defer plain.Close()
	conn, err := newDialer(
		t,
		egress.Config{LearnTransport: true},
	).DialTLS(t.Context(), plain.Listener.Addr().String(), (&balancedProxy{}).clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// A stream sends empty messages while it is open, and none after Close.
func TestAStreamSendsKeepAlives(t *testing.T) {
	t.Parallel()
	near, far := socketPair(t)
	a := egress.NewStream(near, nil, nil, 5*time.Millisecond)
	defer a.Close()
	far.SetReadLimit(1)
	for range 3 {
		kind, b, err := far.Read(t.Context())
		if err != nil || kind != websocket.MessageBinary || len(b) != 0 {
			t.Fatalf("got %v %q, %v, want an empty message", kind, b, err)
		}
	}
	a.Close()
	if _, _, err := far.Read(t.Context()); err == nil {
		t.Error("got a message after the end")
	}
	if err := a.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v at the second close, want %v", err, net.ErrClosed)
	}
}

// A text message, or one over the limit, ends the stream.
func TestAStreamRefusesOtherMessages(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(*websocket.Conn) error{
		"text": func(c *websocket.Conn) error {
			return c.Write(t.Context(), websocket.MessageText,
				[]byte("x"))
		},
		"too large": func(c *websocket.Conn) error {
			return c.Write(t.Context(), websocket.MessageBinary, make([]byte, 1<<20))
		},
	} {
		near, far := socketPair(t)
		a := egress.NewStream(near, nil, nil, time.Minute)
		far.CloseRead(t.Context()) // answers the close frame
		go func() { _ = send(far) }()
		n, err := io.Copy(io.Discard, a)
		if err == nil || n > 64<<10+1 {
			t.Errorf("%s: got %d bytes, %v, want the stream ended", name, n, err)
		}
		a.Close()
		far.CloseNow()
	}
}

func TestAPassedStreamDeadlineIsErrDeadlineExceeded(t *testing.T) {
	t.Parallel()
	near, _ := socketPair(t)
	a := egress.NewStream(near, nil, nil, time.Minute)
	defer a.Close()
	a.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v from a read that waited, want %v", err, os.ErrDeadlineExceeded)
	}
}

// socketPair makes both ends of a WebSocket, in memory.
func socketPair(t *testing.T) (near, far *websocket.Conn) {
	t.Helper()
	accepted := make(chan *websocket.Conn, 1)
	listener := testnet.Listen(testnet.ListenAddr)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	client := &http.Client{Transport: &http.Transport{DialContext: listener.DialContext}}
	near, _, err := websocket.Dial(t.Context(), "http://proxy.example",
		&websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	far = <-accepted
	t.Cleanup(func() {
		far.CloseNow()
		near.CloseNow()
		srv.Close()
		<-served
	})
	return near, far
}

func ExampleConfig() {
	_, err := egress.New(egress.Config{HTTPSProxy: "socks5://10.0.0.1:1080"})
	fmt.Println(fault.Remedy(err))
	// Output: write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with special characters as %XX
}

package web_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/web"
)

// balancedServer is the web server behind a balancer that uses HTTP/1.1. streams has the byte
// streams of its WebSockets, began the calls to Begin.
type balancedServer struct {
	*proxytest.Auth
	addr    string
	streams chan receivedStream
	began   chan authrpc.BeginLoginRequest
}

// receivedStream has the arguments of Config.Connect.
type receivedStream struct{ outer, stream net.Conn }

// newBalancedServer runs a balancedServer until the test ends. change adapts its configuration.
func newBalancedServer(t *testing.T, change func(*web.Config)) *balancedServer {
	t.Helper()
	b := &balancedServer{
		Auth:    proxytest.New(t),
		streams: make(chan receivedStream, 1),
		began:   make(chan authrpc.BeginLoginRequest, 1),
	}
	begin := func(r authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
		b.began <- r
		return authrpc.BeginLoginResponse{Attempt: "begun", Redirect: provider}, nil
	}
	clustertest.Answer(b.Cluster, authrpc.BeginLogin, begin)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = ln.Addr().String()
	client := b.Client()
	cfg := web.Config{
		Auth:      client,
		Public:    []string{"access.example.com"},
		Cluster:   clustertest.Name,
		Pin:       b.Pin(),
		Transport: dial.WebSocket,
		Connect:   func(outer, stream net.Conn) { b.streams <- receivedStream{outer, stream} },
		Balancers: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Log:       proxytest.Log(),
	}
	change(&cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- web.New(cfg).Run(ctx, ln) }()
	t.Cleanup(func() { cancel(); <-done; client.Close() })
	return b
}

// unchanged is no change.
func unchanged(*web.Config) {}

// dial opens a WebSocket. The response is that of the handshake.
func (b *balancedServer) dial(t *testing.T, header http.Header) (*websocket.Conn, *http.Response, error) {
	url := "ws://" + b.addr + dial.ConnectPath
	return websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: header})
}

func (b *balancedServer) get(t *testing.T, path string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+b.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "access.example.com"
	if header != nil {
		r.Header = header
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func forwarded(lines ...string) http.Header { return http.Header{"X-Forwarded-For": lines} }

// The messages of a WebSocket, in both directions, become one byte stream with the address of the client.
func TestAWebSocketBecomesAByteStream(t *testing.T) {
	t.Parallel()
	balanced := newBalancedServer(t, unchanged)
	c, _, err := balanced.dial(t, forwarded("203.0.113.9"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	got := <-balanced.streams
	defer got.stream.Close()
	if from, at := got.stream.RemoteAddr(), got.stream.LocalAddr(); from.String() != "203.0.113.9:0" ||
		at.String() != balanced.addr {
		t.Errorf("got a stream from %s to %s, want it from the client to %s", from, at, balanced.addr)
	}
	if got.outer.LocalAddr().String() != balanced.addr {
		t.Errorf("got the outer connection to %s, want %s", got.outer.LocalAddr(), balanced.addr)
	}
	for _, part := range []string{"hello ", "", "world"} {
		if err := c.Write(t.Context(), websocket.MessageBinary, []byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	text := make([]byte, 11)
	if _, err := io.ReadFull(got.stream, text); err != nil || string(text) != "hello world" {
		t.Errorf("got %q, %v, want the messages as one stream", text, err)
	}
	if _, err := got.stream.Write([]byte("back")); err != nil {
		t.Fatal(err)
	}
	if _, m, err := c.Read(t.Context()); err != nil || string(m) != "back" {
		t.Errorf("got %q, %v, want the answer", m, err)
	}
}

// Browsers may not open a WebSocket, whichever page they show, and nobody may if the proxy is not configured
// for it.
func TestWhoMayNotOpenAWebSocket(t *testing.T) {
	t.Parallel()
	origin := func(o string) http.Header { return http.Header{"Origin": {o}} }
	noOrigin := http.Header{"Sec-Fetch-Site": {"none"}}
	tlsTransport := func(c *web.Config) { c.Transport = dial.TLS }
	noConnect := func(c *web.Config) { c.Connect = nil }
	for _, tt := range []struct {
		name   string
		change func(*web.Config)
		header http.Header
		want   int
	}{
		{"a page of another site", unchanged, origin("https://evil.example.com"), http.StatusForbidden},
		{"a page of our own", unchanged, origin("https://access.example.com"), http.StatusForbidden},
		{"a page without an origin", unchanged, origin("null"), http.StatusForbidden},
		{"a browser without Origin", unchanged, noOrigin, http.StatusForbidden},
		{"a proxy with the transport TLS", tlsTransport, http.Header{}, http.StatusNotFound},
		{"a proxy without Connect", noConnect, http.Header{}, http.StatusNotFound},
	} {
		balanced := newBalancedServer(t, tt.change)
		c, resp, err := balanced.dial(t, tt.header)
		if err == nil {
			c.CloseNow()
			t.Fatalf("%s: got accepted, want refused", tt.name)
		}
		if resp == nil || resp.StatusCode != tt.want {
			t.Errorf("%s: got %v, want %d", tt.name, err, tt.want)
		}
	}
	balanced := newBalancedServer(t, unchanged)
	if resp := balanced.get(t, dial.ConnectPath, nil); resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("got %d without an upgrade, want %d", resp.StatusCode, http.StatusUpgradeRequired)
	}
}

func TestThePingDocumentNamesTheTransport(t *testing.T) {
	t.Parallel()
	for _, want := range []dial.Transport{dial.WebSocket, dial.TLS} {
		b := newBalancedServer(t, func(c *web.Config) { c.Transport = want })
		var p dial.Ping
		err := json.NewDecoder(b.get(t, dial.PingPath, nil).Body).Decode(&p)
		if err != nil || p.Transport != want {
			t.Errorf("got %q, %v, want %q", p.Transport, err, want)
		}
	}
}

// Machines may know the proxy by an internal name.
func TestPingAnswersUnderAnyHostName(t *testing.T) {
	t.Parallel()
	b := newBalancedServer(t, unchanged)
	resp, err := http.Get("http://" + b.addr + dial.PingPath)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("got %v, %v, want the ping document under any name", resp, err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}

// Only a configured balancer is believed, and only the last address in its X-Forwarded-For: a client can send
// the others.
func TestXForwardedForIsBelievedOnlyFromBalancers(t *testing.T) {
	t.Parallel()
	otherBalancer := func(c *web.Config) { c.Balancers = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }
	others := http.Header{"X-Real-Ip": {"192.0.2.1"}, "Forwarded": {"for=192.0.2.1"}}
	for _, tt := range []struct {
		name   string
		change func(*web.Config)
		header http.Header
		want   string
	}{
		{"one address", unchanged, forwarded("203.0.113.9"), "203.0.113.9"},
		{"an address that the client sent, and the balancer's", unchanged,
			forwarded("192.0.2.1, 203.0.113.9"), "203.0.113.9"},
		{"addresses on several lines", unchanged,
			forwarded("192.0.2.1", "192.0.2.2,203.0.113.9"), "203.0.113.9"},
		{"with a port", unchanged, forwarded("203.0.113.9:4711"), "203.0.113.9"},
		{"IPv6", unchanged, forwarded("2001:db8::9"), "2001:db8::9"},
		{"IPv6 in brackets, with a port", unchanged, forwarded("[2001:db8::9]:4711"), "2001:db8::9"},
		{"IPv4 in IPv6", unchanged, forwarded("::ffff:203.0.113.9"), "203.0.113.9"},
		{"no address", unchanged, forwarded("unknown"), "127.0.0.1"},
		{"no line", unchanged, forwarded(), "127.0.0.1"},
		{"nothing after the comma", unchanged, forwarded("192.0.2.1,"), "127.0.0.1"},
		{"other headers", unchanged, others, "127.0.0.1"},
		{"a peer that is not listed", otherBalancer, forwarded("203.0.113.9"), "127.0.0.1"},
	} {
		balanced := newBalancedServer(t, tt.change)
		balanced.get(t, loginPath, tt.header)
		select {
		case got := <-balanced.began:
			if got.From.String() != tt.want {
				t.Errorf("%s: got from %s, want %s", tt.name, got.From, tt.want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: got no login begun", tt.name)
		}
	}
}

package authrpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testServer is a server and a client of it, joined by TLS in memory.
type testServer struct {
	*authrpc.Server
	client *authrpc.Client
	dials  atomic.Int32
}

// newTestServer serves calls as if each came from caller.
func newTestServer(t *testing.T, caller authrpc.Caller) *testServer {
	t.Helper()
	server := &testServer{Server: authrpc.NewServer(
		func(*http.Request) (authrpc.Caller, error) { return caller, nil },
		slog.New(slog.DiscardHandler),
	)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l := testnet.Listen(testnet.ListenAddr)
	web := &http.Server{Handler: server, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan error, 1)
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	go func() { served <- web.Serve(tls.NewListener(l, cfg)) }()
	server.client = authrpc.NewClientWithDialer(
		dialerFunc(func(ctx context.Context) (*tls.Conn, error) {
			server.dials.Add(1)
			conn, err := l.DialContext(ctx, "tcp", "")
			if err != nil {
				return nil, err
			}
			tc := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			return tc, tc.HandshakeContext(ctx)
		}),
		testnet.ListenAddr, &tls.Config{},
	)
	t.Cleanup(func() {
		server.client.Close()
		web.Close()
		<-served
	})
	return server
}

type dialerFunc func(context.Context) (*tls.Conn, error)

func (f dialerFunc) DialTLS(ctx context.Context, _ string, _ *tls.Config) (*tls.Conn, error) {
	return f(ctx)
}

// caller is one of the kind.
func caller(kind identity.Kind) authrpc.Caller {
	return authrpc.Caller{
		Identity: identity.Identity{Kind: kind, Name: "somebody"},
		Addr:     &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 40022},
	}
}

// handleWhoAmI serves WhoAmI with the answer, or with the error.
func (s *testServer) handleWhoAmI(answer authrpc.WhoAmIResponse, err error) {
	authrpc.Handle(s.Server, authrpc.WhoAmI,
		func(context.Context, authrpc.Caller, authrpc.WhoAmIRequest) (authrpc.WhoAmIResponse, error) {
			return answer, err
		})
}

func (s *testServer) whoAmI(t *testing.T) (authrpc.WhoAmIResponse, error) {
	return authrpc.Call(t.Context(), s.client, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
}

func TestCallReturnsTheResponse(t *testing.T) {
	server := newTestServer(t, caller(identity.User))
	server.handleWhoAmI(authrpc.WhoAmIResponse{Logins: []identity.Login{"root"}}, nil)
	for range 2 {
		if res, err := server.whoAmI(t); err != nil || len(res.Logins) != 1 || res.Logins[0] != "root" {
			t.Errorf("got %+v, %v, want the login root", res, err)
		}
	}
	if got := server.dials.Load(); got != 1 {
		t.Errorf("got %d connections for two calls, want one", got)
	}
	server.client.Close()
	if _, err := server.whoAmI(t); err != nil || server.dials.Load() != 2 {
		t.Errorf("got %v and %d connections after Close, want a new connection", err, server.dials.Load())
	}
}

func TestCallReturnsTheFaultOfTheServer(t *testing.T) {
	server := newTestServer(t, caller(identity.User))
	cause := errors.New("a secret of the server")
	server.handleWhoAmI(
		authrpc.WhoAmIResponse{},
		faulttest.Wrap(cause, fault.Conflict, "op", "it was changed", "read it again"),
	)
	_, err := server.whoAmI(t)
	if !fault.Is(err, fault.Conflict) || fault.Message(err) != "it was changed" ||
		fault.Remedy(err) != "read it again" {
		t.Errorf("got %v, want the fault of the server", err)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want no cause in it", err)
	}
}

// A call whose context has no deadline ends after 30 s if the server does not answer. A cancelled call
// returns the error of its context.
func TestACallWithoutDeadlineEndsAfterHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newTestServer(t, caller(identity.User))
		authrpc.Handle(server.Server, authrpc.WhoAmI, func(
			ctx context.Context, _ authrpc.Caller, _ authrpc.WhoAmIRequest,
		) (authrpc.WhoAmIResponse, error) {
			<-ctx.Done()
			return authrpc.WhoAmIResponse{}, ctx.Err()
		})
		start := time.Now()
		_, err := server.whoAmI(t)
		if took := time.Since(start); !fault.Is(err, fault.Unavailable) || took != 30*time.Second {
			t.Errorf("got %v after %s, want unavailable after 30s", err, took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = authrpc.Call(ctx, server.client, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v from a call that was cancelled, want context.Canceled", err)
		}
	})
}

// watchRules serves a stream of n updates, and then its error.
func (s *testServer) watchRules(n int, err error) {
	authrpc.HandleStream(s.Server, authrpc.WatchRules, func(
		_ context.Context,
		_ authrpc.Caller,
		_ authrpc.WatchRulesRequest,
		send func(authrpc.RulesUpdate) error,
	) error {
		for range n {
			if err := send(authrpc.RulesUpdate{}); err != nil {
				return err
			}
		}
		return err
	})
}

// A stream ends with Unavailable when the server ends it, also by an error after the first message; with the
// server's fault before the first message; and with the error of the client's own function.
func TestStream(t *testing.T) {
	stop := errors.New("stop")
	refusal := faulttest.New(fault.Conflict, "op", "not now", "try again")
	stopped := func(err error) bool { return errors.Is(err, stop) }
	is := func(kind fault.Kind) func(error) bool {
		return func(err error) bool { return fault.Is(err, kind) }
	}
	for name, tt := range map[string]struct {
		sent    int
		err     error // of the server
		stopAt  int   // the message at which the client fails; 0: none
		want    int   // messages seen
		wantErr func(error) bool
	}{
		"the server ends it":             {3, nil, 0, 3, is(fault.Unavailable)},
		"the server fails after one":     {1, refusal, 0, 1, is(fault.Unavailable)},
		"the server fails before any":    {0, refusal, 0, 0, is(fault.Conflict)},
		"the client fails at the second": {3, nil, 2, 2, stopped},
	} {
		t.Run(name, func(t *testing.T) {
			server := newTestServer(t, caller(identity.Proxy))
			server.watchRules(tt.sent, tt.err)
			seen := 0
			err := authrpc.Stream(t.Context(), server.client, authrpc.WatchRules, authrpc.WatchRulesRequest{},
				func(authrpc.RulesUpdate) error {
					if seen++; seen == tt.stopAt {
						return stop
					}
					return nil
				})
			if seen != tt.want || !tt.wantErr(err) {
				t.Errorf("got %d messages and %v, want %d", seen, err, tt.want)
			}
		})
	}
}

// When the client cancels, both ends return: Stream with the context's error, and the server's function
// because its context ends.
func TestAStreamEndsWithItsContext(t *testing.T) {
	server := newTestServer(t, caller(identity.Proxy))
	authrpc.HandleStream(server.Server, authrpc.WatchRules, func(
		ctx context.Context,
		_ authrpc.Caller,
		_ authrpc.WatchRulesRequest,
		send func(authrpc.RulesUpdate) error,
	) error {
		err := send(authrpc.RulesUpdate{})
		<-ctx.Done() // the client has hung up
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := authrpc.Stream(ctx, server.client, authrpc.WatchRules, authrpc.WatchRulesRequest{},
		func(authrpc.RulesUpdate) error {
			cancel()
			return nil
		})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// Each error of the transport becomes a fault whose message and remedy a user can act on.
func TestErrorsOfTheConnectionSayWhatToDo(t *testing.T) {
	t.Parallel()
	hour := time.Now().Truncate(time.Hour)
	for name, tt := range map[string]struct {
		err          error
		kind         fault.Kind
		says, remedy string
	}{
		"another cluster": {
			&identity.PinError{},
			fault.Denied, "access.example.com:443 is not the cluster with sha256:", "pin",
		},
		"an expired server": {
			&identity.ExpiredError{From: hour, Until: hour.Add(time.Hour), Now: hour.Add(2 * time.Hour)},
			fault.Expired, "the server's certificate expired", "clock",
		},
		"a refused certificate": {
			&net.OpError{Op: "remote error", Err: tls.AlertError(42)},
			fault.Unauthenticated, "does not accept this certificate", "run: tsh login",
		},
		"a closed connection": {
			io.EOF,
			fault.Unavailable, "auth cannot be reached at access.example.com:443", "check the address",
		},
	} {
		c := authrpc.NewClientWithDialer(failingDialer{tt.err}, "access.example.com:443", &tls.Config{})
		_, err := authrpc.Call(t.Context(), c, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.says) ||
			!strings.Contains(fault.Remedy(err), tt.remedy) {
			t.Errorf("%s: got %v (%s, %s), want %s with %q and remedy %q",
				name, err, fault.KindOf(err), fault.Remedy(err), tt.kind, tt.says, tt.remedy)
		}
	}
}

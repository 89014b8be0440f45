package server_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bootstrap = `kind: cluster
version: v1
metadata: {name: x.example.com}
spec:
  seal: file://SEAL
  root_key: store
  connector:
    name: idp
    type: oidc
    issuer: https://idp.example.com
    client_id: x
    client_secret: y
  admin: {claim: groups, value: admin}
`

// authOnly runs the auth service alone, over a new cluster.
func authOnly(t *testing.T) server.Config {
	t.Helper()
	dir := t.TempDir()
	cfg := server.Config{
		Dir:  dir,
		Log:  slog.New(slog.DiscardHandler),
		Auth: &server.Auth{Listen: "127.0.0.1:0"},
	}
	cfg.Auth.Bootstrap = []byte(strings.Replace(bootstrap, "SEAL", filepath.Join(dir, "seal.key"), 1))
	cfg.Auth.BootstrapName = "cluster.yaml"
	return cfg
}

// start runs a server until the test ends.
func start(t *testing.T, cfg server.Config) *server.Server {
	t.Helper()
	srv, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v, want nil", err)
		}
	})
	if err := srv.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return srv
}

func TestAuthRunsAloneAndInvitesTheFirstProxy(t *testing.T) {
	t.Parallel()
	s := start(t, authOnly(t))
	if st := s.Health().Check(t.Context()); !st.Ready || len(st.Parts) != 1 || st.Parts[0].Name != "auth" {
		t.Errorf("got health %+v, want auth alone, ready", st)
	}
	token, err := s.InviteFirstProxy(t.Context(), nil, 5*time.Minute)
	if err != nil || token.Kind != identity.Proxy || len(s.RootPEM()) == 0 {
		t.Errorf("got token %v, %v, want one for a proxy", token.Kind, err)
	}
}

func TestAPartThatCannotStartEndsTheServer(t *testing.T) {
	t.Parallel()
	cfg := authOnly(t)
	cfg.Proxy = &server.Proxy{Listen: "127.0.0.1:0"} // it has no public address
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ran := s.Run(t.Context())
	if !fault.Is(ran, fault.Invalid) || !strings.Contains(fault.Message(ran), "configuration") {
		t.Errorf("got %v, want the proxy's fault", ran)
	}
	if err := s.Ready(t.Context()); fault.Message(err) != fault.Message(ran) {
		t.Errorf("Ready: got %v, want the same fault", err)
	}
}

// New refuses a server without parts and a port that is in use, and names the key to change. A server without
// auth cannot invite proxies.
func TestServersThatCannotBeMade(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	if _, err := server.New(server.Config{Dir: t.TempDir(), Log: log}); !fault.Is(err, fault.Invalid) {
		t.Errorf("no part: got %v, want Invalid", err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := authOnly(t)
	cfg.Auth.Listen = taken.Addr().String()
	_, err = server.New(cfg)
	if !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Remedy(err), "spec.auth.listen") {
		t.Errorf("a port in use: got %v, want Conflict and the key to change", err)
	}
	nodeAlone := server.Config{Dir: t.TempDir(), Log: log, Node: &server.Node{}}
	srv, err := server.New(nodeAlone)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.InviteFirstProxy(t.Context(), nil, time.Minute); !fault.Is(err, fault.Invalid) {
		t.Errorf("an invitation without auth: got %v, want Invalid", err)
	}
}

// Package dex tests the login through dex, an identity provider that is not ours. It is a module of its
// own, so that the dependencies of dex are not those of the product.
package dex

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dexidp/dex/server"
	"github.com/dexidp/dex/server/signer"
	"github.com/dexidp/dex/storage"
	"github.com/dexidp/dex/storage/memory"
	"github.com/dexidp/dex/web"
	"golang.org/x/crypto/bcrypt"

	"github.com/threshold-access/threshold/integration/harness"
)

const (
	clientID     = "threshold"
	clientSecret = "dex-knows-this-secret"
	password     = "correct horse"
	tokenLife    = 10 * time.Minute
)

// A user whose company runs dex logs in, enrols a second factor and runs a command on a node.
func TestALoginThroughDexLeadsToANode(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	p := startDex(t, proxy)
	s := harness.StartServer(t, proxy, p, "dex-node")

	c := harness.NewClient(t)
	alice := c.FirstLogin(s, harness.User{Email: "alice@example.com", Password: password})
	out := c.Tsh("ssh", harness.Account(t)+"@dex-node", "echo through-dex").OK(t)
	if strings.TrimSpace(out) != "through-dex" {
		t.Errorf("got %q, want the command's output", out)
	}
	if out := c.Tsh("status").OK(t); !strings.Contains(out, alice.Email) {
		t.Errorf("got %q, want the user's name", out)
	}

	bob := harness.NewClient(t)
	bob.FirstLogin(s, harness.User{Email: "bob@example.com", Password: password})
	bob.Tsh("ssh", harness.Account(t)+"@dex-node", "true").Refused(t)
}

// startDex runs dex on loopback with two users, and Threshold at the proxy's address as its client.
func startDex(t *testing.T, proxy string) harness.Provider {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	issuer := "http://" + l.Addr().String() + "/dex"
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	store := memory.New(log)
	fill(ctx, t, store, proxy)
	keys := signer.LocalConfig{KeysRotationPeriod: "6h"}
	sign, err := keys.Open(ctx, store, tokenLife, time.Now, log)
	if err != nil {
		t.Fatal(err)
	}
	dex, err := server.NewServer(ctx, server.Config{
		Issuer:             issuer,
		Storage:            store,
		SkipApprovalScreen: true,
		Signer:             sign,
		Logger:             log,
		IDTokensValidFor:   tokenLife,
		Web:                server.WebConfig{WebFS: web.FS()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	harness.Serve(t, l, dex)
	return harness.Provider{Issuer: issuer, ClientID: clientID, ClientSecret: clientSecret}
}

// fill stores the users, the client and the connector.
func fill(ctx context.Context, t *testing.T, store storage.Storage, proxy string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		p := storage.Password{Email: name + "@example.com", Hash: hash, Username: name, UserID: "dex-" + name}
		if err := store.CreatePassword(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	client := storage.Client{
		ID:           clientID,
		Secret:       clientSecret,
		Name:         "Threshold",
		RedirectURIs: []string{harness.CallbackURL(proxy, harness.Connector)},
	}
	if err := store.CreateClient(ctx, client); err != nil {
		t.Fatal(err)
	}
	local := storage.Connector{ID: "local", Type: "local", Name: "Email"}
	if err := store.CreateConnector(ctx, local); err != nil {
		t.Fatal(err)
	}
}

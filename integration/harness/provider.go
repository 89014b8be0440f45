package harness

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/internal/authrpc"
)

// Users are the email addresses of the users of StartProvider. Their password is Password.
var Users = []string{"alice@example.com", "bob@example.com"}

// Password is the password of every user of StartProvider.
const Password = "correct horse battery"

// StartProvider runs a small OpenID Connect provider on host until the test ends. It accepts the callback
// addresses of the connector Connector at the given proxies.
func StartProvider(t testing.TB, host string, proxies ...string) Provider {
	t.Helper()
	return StartProviderAs(t, Connector, host, proxies...)
}

// StartProviderAs is StartProvider for a connector of another name. It returns what the cluster's
// configuration needs to use the provider.
func StartProviderAs(t testing.TB, connector, host string, proxies ...string) Provider {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := Provider{
		Issuer:       "http://" + l.Addr().String(),
		ClientID:     "threshold",
		ClientSecret: "a secret of the test",
	}
	client := oidctest.Client{ID: p.ClientID, Secret: p.ClientSecret}
	for _, addr := range proxies {
		client.Redirects = append(client.Redirects, CallbackURL(addr, connector))
	}
	var users []oidctest.User
	for _, email := range Users {
		users = append(users, oidctest.User{Email: email, Password: Password, Subject: "id of " + email})
	}
	provider, err := oidctest.New(
		oidctest.Config{Issuer: p.Issuer, Clients: []oidctest.Client{client}, Users: users},
	)
	if err != nil {
		t.Fatal(err)
	}
	Serve(t, l, provider)
	return p
}

// CallbackURL is the address at the proxy to which the provider of the connector sends browsers back.
func CallbackURL(proxy, connector string) string {
	return "https://" + proxy + authrpc.CallbackPath(connector)
}

// Serve serves HTTP on the listener until the test ends.
func Serve(t testing.TB, l net.Listener, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// Alice is the user of StartProvider who is the administrator.
func Alice() User { return User{Email: Users[0], Password: Password} }

// Bob is the user of StartProvider who has no role.
func Bob() User { return User{Email: Users[1], Password: Password} }

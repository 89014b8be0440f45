package login

import (
	"net/netip"
	"net/url"
	"testing"
)

// Whatever loopbackCallback accepts must be a loopback address with a port and the path /callback, and
// nothing else: the one-time code is sent there.
func FuzzLoopbackCallback(f *testing.F) {
	for _, s := range []string{
		"http://127.0.0.1:1/callback",
		"http://[::1]:65535/callback",
		"http://127.0.0.1:1@evil.example/callback",
		"http://127.0.0.1:99999/callback",
		"",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !loopbackCallback(s) {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.User != nil || u.Path != "/callback" || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q: got it accepted, want nothing but host and port to differ", s)
		}
		if a, err := netip.ParseAddrPort(u.Host); err != nil || !a.Addr().IsLoopback() || a.Port() == 0 {
			t.Errorf("%q: got it accepted, want loopback by address", s)
		}
	})
}

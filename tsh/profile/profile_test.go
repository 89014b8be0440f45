package profile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ tshHome, home, want string }{
		{"/a/b", "/home/x", "/a/b"},
		{"", "/home/x", "/home/x/.tsh"},
		{"", "", ""},
	} {
		env := map[string]string{"TSH_HOME": tt.tshHome, "HOME": tt.home}
		h, err := profile.Open(func(k string) string { return env[k] })
		if string(h) != tt.want || (err == nil) != (tt.want != "") || err != nil && fault.Remedy(err) == "" {
			t.Errorf("%+v: got %q (%v)", tt, h, err)
		}
	}
}

// An address becomes host:port. Text that would be unsafe in a file name or an OpenSSH configuration is
// refused.
func TestParseProxy(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"access.example.com":      "access.example.com:443",
		"ACCESS.example.com:8443": "access.example.com:8443",
		"https://x.example.com/":  "x.example.com:443",
		"127.0.0.1:8443":          "127.0.0.1:8443",
		"[::1]:8443":              "[::1]:8443",
		"::1":                     "[::1]:443",
	} {
		if got, err := profile.ParseProxy(in); err != nil || got != want {
			t.Errorf("%q: got %q (%v), want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "a b", "x:0", "x:99999", "x:http", "../x", "x/y", "-oProxyCommand=id", "x;id", "a:b:c",
		"x\nHost *", ".hidden",
	} {
		if got, err := profile.ParseProxy(in); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%q: got %q (%v), want refused with a remedy", in, got, err)
		}
	}
}

const testCluster = "access.example.com"

// writeProfile writes profile.json of testCluster under a new home.
func writeProfile(t *testing.T, body string) profile.Home {
	t.Helper()
	h := profile.Home(t.TempDir())
	if err := os.MkdirAll(h.Dir(testCluster), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(h.Dir(testCluster), "profile.json")
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestWithoutALogin(t *testing.T) {
	t.Parallel()
	h := profile.Home(t.TempDir())
	_, err := h.FindProxy("x:443")
	if !fault.Is(err, fault.NotFound) || fault.Remedy(err) != "run: tsh login --proxy x" {
		t.Errorf("got %v (%s), want the hint to log in", err, fault.Remedy(err))
	}
	for what, try := range map[string]func() error{
		"Current": func() error { _, err := h.Current(); return err },
		"Load":    func() error { _, err := h.Load(testCluster); return err },
		"Remove":  func() error { return h.Remove(testCluster) },
	} {
		err := try()
		if !fault.Is(err, fault.NotFound) || fault.CodeOf(err) == "" || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want not found with a code and a remedy", what, err)
		}
	}
	if all, err := h.Clusters(); err != nil || len(all) != 0 {
		t.Errorf("got %v (%v), want none", all, err)
	}
}

// A tsh that kept logins by proxy wrote an address where this one writes a cluster. Its users log in again,
// at the same proxy.
func TestLoginsOfAnEarlierTshAskForANewLogin(t *testing.T) {
	t.Parallel()
	for content, hint := range map[string]string{
		"access.example.com:443\n":  "run: tsh login --proxy access.example.com",
		"access.example.com:8443\n": "run: tsh login --proxy access.example.com:8443",
		"???\n":                     "run: tsh login --proxy HOST",
	} {
		h := profile.Home(t.TempDir())
		if err := os.WriteFile(filepath.Join(string(h), "current"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := h.Current()
		if fault.CodeOf(err) != "profile-outdated" || fault.Remedy(err) != hint {
			t.Errorf("%q: got %v (%s), want %q", content, err, fault.Remedy(err), hint)
		}
	}
}

// golden is profile.json as the first release writes it.
func golden(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "profile.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A profile is read as it was written, and also with a field of a newer tsh.
func TestProfileIsRead(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	want := profile.Info{
		V:       1,
		Cluster: testCluster,
		Pin:     identity.Pin{1, 2, 3},
		Proxies: []profile.Proxy{
			{Address: "access.example.com:443"},
			{Address: "[2001:db8::1]:8443", Transport: dial.WebSocket},
		},
		User:       "alice@example.com",
		Roles:      []string{"ops"},
		Logins:     []identity.Login{"alice", "root"},
		Issued:     at,
		AuthTime:   at.Add(-2 * time.Minute),
		Factor:     "totp",
		FactorTime: at.Add(-time.Minute),
		Expires:    at.Add(8 * time.Hour),
	}
	for name, body := range map[string]string{
		"as written":                       golden(t),
		"with an unknown field":            strings.Replace(golden(t), "{", `{"tomorrow": {"a": [1]},`, 1),
		"with a critical field we know":    strings.Replace(golden(t), "{", `{"critical": ["proxies.transport"],`, 1),
		"with an unknown field of a proxy": strings.Replace(golden(t), `"address"`, `"zone": "eu", "address"`, 1),
	} {
		h := writeProfile(t, body)
		got, err := h.ReadInfo(testCluster)
		got.Critical = nil
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v (%v), want %+v", name, got, err, want)
		}
		found, err := h.FindProxy("[2001:db8::1]:8443")
		if err != nil || found.Cluster != testCluster {
			t.Errorf("%s: got %+v (%v), want it found by its second proxy", name, found, err)
		}
	}
}

// A profile that needs a newer tsh is refused with that as the remedy, and a damaged one with the way to get
// rid of it.
func TestProfilesThatCannotBeUsedAreRefused(t *testing.T) {
	t.Parallel()
	const update, remove = "update this program", "remove "
	for _, tt := range []struct{ name, body, message, remedy string }{
		{"a newer version", strings.Replace(golden(t), `"v": 1`, `"v": 2, "pin": 7`, 1), "version 2", update},
		{"no version", strings.Replace(golden(t), `"v": 1`, `"v": 0`, 1), "version 0", update},
		{"an unknown critical field", strings.Replace(golden(t), "{", `{"critical": ["tomorrow"], "tomorrow": 1,`,
			1), `"tomorrow"`, update},
		{"another cluster", strings.Replace(golden(t), testCluster, "other.example.com", 1), "damaged", remove},
		{"no pin", strings.Replace(golden(t), `"pin"`, `"nip"`, 1), "no pin", remove},
		{"a proxy that is no address", strings.Replace(golden(t), "access.example.com:443", "-o evil", 1),
			"no address of a proxy", remove},
		{"no JSON", "{", "damaged", remove},
	} {
		_, err := writeProfile(t, tt.body).Load(testCluster)
		if err == nil || !strings.Contains(fault.Message(err), tt.message) || fault.CodeOf(err) == "" ||
			!strings.Contains(fault.Remedy(err), tt.remedy) {
			t.Errorf("%s: got %v (%s), want %q, a code and the remedy %q", tt.name, err, fault.Remedy(err),
				tt.message, tt.remedy)
		}
	}
}

// The proxy of the latest login is the first. The list is bounded.
func TestAddProxy(t *testing.T) {
	t.Parallel()
	var info profile.Info
	for i := range 20 {
		info.AddProxy(profile.Proxy{Address: fmt.Sprintf("p%d:443", i)})
	}
	info.AddProxy(profile.Proxy{Address: "p10:443", Transport: dial.WebSocket})
	first, second := info.Proxies[0], info.Proxies[1]
	if len(info.Proxies) != 16 || first != (profile.Proxy{Address: "p10:443", Transport: dial.WebSocket}) ||
		second.Address != "p19:443" {
		t.Errorf("got %+v, want 16 proxies, p10 and then p19 at the front", info.Proxies)
	}
}

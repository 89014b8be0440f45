package forward_test

import (
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/forward"
)

func port(host string, n uint16) forward.Addr { return forward.Addr{Host: host, Port: n} }

func socket(path string) forward.Addr { return forward.Addr{Path: path} }

// The values of -L, -R, -D and -W mean what they mean for OpenSSH.
func TestRulesAsOpenSSHReadsThem(t *testing.T) {
	t.Parallel()
	none := forward.Addr{}
	for s, want := range map[string]forward.Rule{
		"8080:db:5432":            {From: port("localhost", 8080), To: port("db", 5432)},
		"127.0.0.2:8080:db:5432":  {From: port("127.0.0.2", 8080), To: port("db", 5432)},
		"*:8080:db:5432":          {From: port("", 8080), To: port("db", 5432)},
		":8080:db:5432":           {From: port("", 8080), To: port("db", 5432)},
		"[::1]:8080:[fe80::1]:22": {From: port("::1", 8080), To: port("fe80::1", 22)},
		"8080:/run/app.sock":      {From: port("localhost", 8080), To: socket("/run/app.sock")},
		"[::]:8080:/run/app.sock": {From: port("::", 8080), To: socket("/run/app.sock")},
		"/tmp/s:db:5432":          {From: socket("/tmp/s"), To: port("db", 5432)},
		"./s:/run/app.sock":       {From: socket("./s"), To: socket("/run/app.sock")},
	} {
		if got, err := forward.ParseLocal(s); err != nil || got != want {
			t.Errorf("-L %s: got %+v, %v, want %+v", s, got, err, want)
		}
		if got, err := forward.ParseRemote(s); err != nil || got != want {
			t.Errorf("-R %s: got %+v, %v, want %+v", s, got, err, want)
		}
	}
	if got, err := forward.ParseRemote("0:db:5432"); err != nil || got.From != port("localhost", 0) {
		t.Errorf("-R 0: got %+v, %v, want the port left to the node", got, err)
	}
	for s, want := range map[string]forward.Addr{
		"1080":       port("localhost", 1080),
		"*:1080":     port("", 1080),
		"[::1]:1080": port("::1", 1080),
	} {
		if got, err := forward.ParseDynamic(s); err != nil || got != (forward.Rule{From: want, To: none}) {
			t.Errorf("-D %s: got %+v, %v, want %+v", s, got, err, want)
		}
	}
	if got, err := forward.ParseTarget("[::1]:80"); err != nil || got != port("::1", 80) {
		t.Errorf("-W: got %+v, %v", got, err)
	}
}

// A value that is not valid for its flag is refused with an example.
func TestRulesThatAreRefused(t *testing.T) {
	t.Parallel()
	parsers := map[string]func(string) error{
		"-L": func(s string) error { _, err := forward.ParseLocal(s); return err },
		"-R": func(s string) error { _, err := forward.ParseRemote(s); return err },
		"-D": func(s string) error { _, err := forward.ParseDynamic(s); return err },
		"-W": func(s string) error { _, err := forward.ParseTarget(s); return err },
	}
	for flag, list := range map[string][]string{
		"-L": {
			"", "8080", "db:5432", "8080:db:0", "8080:db:70000", "8080:db:http", "8080::80", "a:b:c:d:e",
			"1:2:3:4:5", "[::1:8080:db:1", "[::1]x:8080:db:1", "-1:db:80", "+1:db:80", "80:db:80\n", "/s",
			"0:db:80", "a:/s:db:80",
		},
		"-R": {"", "db", "8080:db", "8080:db:0", "x:db:80"},
		"-D": {"", "x", "0", "1080:db:80", "/s", "1080:/s"},
		"-W": {"", "db", ":80", "db:0", "db:80:x", "/s"},
	} {
		for _, s := range list {
			if err := parsers[flag](s); !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
				t.Errorf("%s %q: got %v, want refused with a remedy", flag, s, err)
			}
		}
	}
}

package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
)

// DefaultPort is a proxy's port where none is given.
const DefaultPort = "443"

// Home is the folder that holds all profiles.
type Home string

// Open finds the home: TSH_HOME, else ~/.tsh. It makes nothing.
func Open(getenv func(string) string) (Home, error) {
	if dir := getenv("TSH_HOME"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fault.Wrap(
				err,
				fault.Invalid,
				"",
				"TSH_HOME cannot be resolved: "+err.Error(),
				"set TSH_HOME to a whole path",
			)
		}
		return Home(abs), nil
	}
	if home := getenv("HOME"); home != "" {
		return Home(filepath.Join(home, ".tsh")), nil
	}
	return "", fault.New(
		fault.Invalid,
		"",
		"there is no home folder: neither TSH_HOME nor HOME is set",
		"set TSH_HOME to a folder of your own",
	)
}

// ParseProxy gives the address host:port of what a person types: host, host:port, [v6]:port, with or without
// https:// in front.
func ParseProxy(s string) (string, error) {
	bad := fault.New(
		fault.Invalid,
		"",
		fmt.Sprintf("%q is no proxy address", s),
		"give it as HOST or HOST:PORT, as access.example.com",
	)
	addr := strings.TrimSuffix(strings.TrimPrefix(s, "https://"), "/")
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.Trim(addr, "[]"), DefaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || !hostname(host) {
		return "", bad
	}
	return net.JoinHostPort(strings.ToLower(host), port), nil
}

// hostname reports whether s may be a host name or address, and so part of a file name, a URL and an OpenSSH
// configuration.
func hostname(s string) bool {
	return s != "" && len(s) <= 253 && s[0] != '-' && s[0] != '.' && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' || r == ':')
	}) &&
		(!strings.Contains(s, ":") || net.ParseIP(s) != nil)
}

func hostOf(proxy string) string {
	host, _, err := net.SplitHostPort(proxy)
	if err != nil {
		return proxy
	}
	return host
}

// Dir is the folder of the proxy.
func (h Home) Dir(proxy string) string {
	host, port, err := net.SplitHostPort(proxy)
	if err != nil {
		host, port = proxy, DefaultPort
	}
	return filepath.Join(string(h), strings.ReplaceAll(host, ":", "-")+"_"+port)
}

// Proxies lists every proxy that was ever logged in to, by address.
func (h Home) Proxies() ([]string, error) {
	entries, err := os.ReadDir(string(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, readFault(string(h), err)
	}
	var out []string
	for _, e := range entries {
		if i, err := readInfo(filepath.Join(string(h), e.Name()), ""); err == nil && e.IsDir() {
			out = append(out, i.Proxy)
		}
	}
	return out, nil
}

// Current is the proxy that commands use without --proxy: the one of the latest login. It is NotFound before
// the first.
func (h Home) Current() (string, error) {
	b, err := os.ReadFile(filepath.Join(string(h), currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", notLoggedIn("")
	}
	if err != nil {
		return "", readFault(filepath.Join(string(h), currentFile), err)
	}
	return ParseProxy(strings.TrimSpace(string(b)))
}

// SetCurrent makes the proxy the one that commands use without --proxy.
func (h Home) SetCurrent(proxy string) error {
	path := filepath.Join(string(h), currentFile)
	if err := durable.WriteFile(path, []byte(proxy+"\n")); err != nil {
		return writeFault(path, err)
	}
	return nil
}

// makeDirs makes the home and a folder in it, and refuses a home that others can write to: they could swap
// keys.
func (h Home) makeDirs(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return writeFault(dir, err)
	}
	for _, d := range []string{string(h), dir} {
		if err := os.Chmod(d, 0o700); err != nil {
			return writeFault(d, err)
		}
	}
	return nil
}

func notLoggedIn(proxy string) error {
	if proxy == "" {
		return fault.New(fault.NotFound, "", "not logged in", "run: tsh login --proxy HOST")
	}
	return fault.New(fault.NotFound, "", "not logged in at "+proxy, loginHint(proxy))
}

func loginHint(proxy string) string {
	return "run: tsh login --proxy " + strings.TrimSuffix(proxy, ":"+DefaultPort)
}

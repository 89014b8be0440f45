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

// DefaultPort is the port of a proxy whose address has none.
const DefaultPort = "443"

// Home is the folder that holds all profiles.
type Home string

// Open returns the home: the folder TSH_HOME, else ~/.tsh. It creates nothing, and the folder need not exist.
// It returns an Invalid fault if neither TSH_HOME nor HOME is set.
func Open(getenv func(string) string) (Home, error) {
	if dir := getenv("TSH_HOME"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			msg := "TSH_HOME cannot be resolved: " + err.Error()
			return "", fault.Wrap(err, fault.Invalid, "", msg, "set TSH_HOME to an absolute path")
		}
		return Home(abs), nil
	}
	if userHome := getenv("HOME"); userHome != "" {
		return Home(filepath.Join(userHome, ".tsh")), nil
	}
	msg := "there is no home folder: neither TSH_HOME nor HOME is set"
	return "", fault.New(fault.Invalid, "", msg, "set TSH_HOME to a folder of your own")
}

// ParseProxy returns the address of a proxy as host:port, in lower case, for what a user types: host,
// host:port, an IPv6 address or [v6]:port, with or without https:// in front. Without a port it is
// DefaultPort. It returns an Invalid fault for other text.
func ParseProxy(typed string) (string, error) {
	addr := strings.TrimSuffix(strings.TrimPrefix(typed, "https://"), "/")
	host, port, err := net.SplitHostPort(addr)
	if err != nil { // there is no port
		host, port = strings.Trim(addr, "[]"), DefaultPort
	}
	portNumber, err := strconv.ParseUint(port, 10, 16)
	if err != nil || portNumber == 0 || !isHost(host) {
		msg := fmt.Sprintf("%q is not a proxy address", typed)
		return "", fault.New(fault.Invalid, "", msg, "write HOST or HOST:PORT, as access.example.com")
	}
	return net.JoinHostPort(strings.ToLower(host), port), nil
}

// isHost reports whether s has the form of a host name or an IP address. Such text is safe in a file name, a
// URL and an OpenSSH configuration: it contains no slash, space or quote and begins with no dot or dash.
func isHost(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '-' || s[0] == '.' {
		return false
	}
	unsafe := func(r rune) bool {
		isLetter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		return !isLetter && !(r >= '0' && r <= '9') && !strings.ContainsRune(".-_:", r)
	}
	isIPv6 := strings.Contains(s, ":")
	return !strings.ContainsFunc(s, unsafe) && (!isIPv6 || net.ParseIP(s) != nil)
}

// hostOf returns the host in host:port.
func hostOf(proxy string) string {
	host, _, err := net.SplitHostPort(proxy)
	if err != nil {
		return proxy
	}
	return host
}

// Dir returns the folder of the profile of the proxy, which is host:port: HOST_PORT in the home, with dashes
// for the colons of an IPv6 address. The folder need not exist.
func (h Home) Dir(proxy string) string {
	host, port, err := net.SplitHostPort(proxy)
	if err != nil {
		host, port = proxy, DefaultPort
	}
	return filepath.Join(string(h), strings.ReplaceAll(host, ":", "-")+"_"+port)
}

// Proxies lists the addresses of all proxies with a profile, logged in or not. It leaves out folders whose
// profile.yaml is missing or cannot be read.
func (h Home) Proxies() ([]string, error) {
	entries, err := os.ReadDir(string(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, readFault(string(h), err)
	}
	var proxies []string
	for _, entry := range entries {
		const noProxy = "" // no message is shown
		info, err := readInfo(filepath.Join(string(h), entry.Name()), noProxy)
		if err == nil && entry.IsDir() {
			proxies = append(proxies, info.Proxy)
		}
	}
	return proxies, nil
}

// Current returns the proxy that commands use without --proxy: the one of the latest login. Before the first
// login it returns a NotFound fault.
func (h Home) Current() (string, error) {
	b, err := os.ReadFile(filepath.Join(string(h), currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", notLoggedInFault("")
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

// makeDirs creates the home and the folder dir in it. It gives both mode 0700, also if they exist: other
// users who may write there could replace the keys.
func (h Home) makeDirs(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return writeFault(dir, err)
	}
	for _, path := range []string{string(h), dir} {
		if err := os.Chmod(path, 0o700); err != nil {
			return writeFault(path, err)
		}
	}
	return nil
}

// notLoggedInFault returns the NotFound fault of a command that needs a login. proxy is where; it is empty
// before the first login, when no proxy is known.
func notLoggedInFault(proxy string) error {
	if proxy == "" {
		return fault.New(fault.NotFound, "", "not logged in", "run: tsh login --proxy HOST")
	}
	return fault.New(fault.NotFound, "", "not logged in at "+proxy, loginHint(proxy))
}

// loginHint is the command that logs in at the proxy. It leaves the default port out, as users type it.
func loginHint(proxy string) string {
	return "run: tsh login --proxy " + strings.TrimSuffix(proxy, ":"+DefaultPort)
}

package profile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
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
			return "", homeUnresolvable.Wrap(err, "", fault.Args{"why": err.Error()})
		}
		return Home(abs), nil
	}
	if userHome := getenv("HOME"); userHome != "" {
		return Home(filepath.Join(userHome, ".tsh")), nil
	}
	return "", homeMissing.New("")
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
		return "", proxyAddressInvalid.New("", fault.Args{"typed": typed})
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

// Dir returns the folder of the profile of the cluster. It need not exist. The name of a cluster is safe in a
// path: identity.CheckCluster accepts no slash, and no dot at its beginning.
func (h Home) Dir(cluster string) string { return filepath.Join(string(h), clustersDir, cluster) }

// Clusters lists the names of all clusters with a profile, logged in or not. It leaves out what is not a
// cluster's folder, and folders without profile.json.
func (h Home) Clusters() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(string(h), clustersDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, readFault(filepath.Join(string(h), clustersDir), err)
	}
	var clusters []string
	for _, entry := range entries {
		if identity.CheckCluster(entry.Name()) != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(h.Dir(entry.Name()), infoFile)); err == nil {
			clusters = append(clusters, entry.Name())
		}
	}
	return clusters, nil
}

// FindProxy returns the profile that has a proxy with this address. It leaves out profiles that cannot be
// read. It returns a NotFound fault if there is none.
func (h Home) FindProxy(address string) (Info, error) {
	clusters, err := h.Clusters()
	if err != nil {
		return Info{}, err
	}
	for _, cluster := range clusters {
		info, err := h.ReadInfo(cluster)
		isIt := func(p Proxy) bool { return p.Address == address }
		if err == nil && slices.ContainsFunc(info.Proxies, isIt) {
			return info, nil
		}
	}
	unknown := Info{Proxies: []Proxy{{Address: address}}}
	return Info{}, loginMissingAt.New("", fault.Args{"place": address, "hint": unknown.loginHint()})
}

// Current returns the cluster that commands use without --cluster and --proxy: the one of the latest login.
// Before the first login it returns a NotFound fault, and after logins of a tsh that kept them by proxy an
// Invalid fault.
func (h Home) Current() (string, error) {
	path := filepath.Join(string(h), currentFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", loginMissing.New("")
	}
	if err != nil {
		return "", readFault(path, err)
	}
	name := strings.TrimSpace(string(b))
	err = identity.CheckCluster(name)
	if err == nil {
		return name, nil
	}
	hint := Info{}.loginHint()
	if proxy, err := ParseProxy(name); err == nil && strings.Contains(name, ":") {
		hint = Info{Proxies: []Proxy{{Address: proxy}}}.loginHint()
	}
	return "", profileOutdated.Wrap(err, "", fault.Args{"folder": string(h), "hint": hint})
}

// SetCurrent makes the cluster the one that commands use without --cluster and --proxy.
func (h Home) SetCurrent(cluster string) error {
	path := filepath.Join(string(h), currentFile)
	if err := durable.WriteFile(path, []byte(cluster+"\n")); err != nil {
		return writeFault(path, err)
	}
	return nil
}

// makeDirs creates the home and the folder dir under it. It gives them mode 0700, also if they exist: other
// users who may write there could replace the keys.
func (h Home) makeDirs(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return writeFault(dir, err)
	}
	for _, path := range []string{string(h), filepath.Dir(dir), dir} {
		if err := os.Chmod(path, 0o700); err != nil {
			return writeFault(path, err)
		}
	}
	return nil
}

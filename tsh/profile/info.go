package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// infoVersion is the newest format of profile.json that this code reads. It writes this version.
const infoVersion = 1

// Info is profile.json. The fields from User on are empty after a logout. A reader ignores fields that it
// does not know unless the file calls them critical (package wire).
type Info struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
	Cluster  string        `json:"cluster"`
	Pin      identity.Pin  `json:"pin"`
	Proxies  []Proxy       `json:"proxies"` // in the order in which they are tried: the latest login's first

	User       string           `json:"user,omitempty"` // empty: logged out
	Roles      []string         `json:"roles,omitempty"`
	Logins     []identity.Login `json:"logins,omitempty"`
	Issued     time.Time        `json:"issued_at,omitzero"`
	AuthTime   time.Time        `json:"auth_time,omitzero"`   // when the provider identified the user
	Factor     string           `json:"factor,omitempty"`     // the second factor
	FactorTime time.Time        `json:"factor_time,omitzero"` // when the user proved it
	Expires    time.Time        `json:"expires,omitzero"`
}

// Proxy is one entry to a cluster.
type Proxy struct {
	Address string `json:"address"` // host:port
	// Transport is how the proxy is reached, as its ping document said at the login. Empty: TLS.
	Transport dial.Transport `json:"transport,omitempty"`
}

// Host is the proxy's host name or IP address.
func (p Proxy) Host() string {
	host, _, err := net.SplitHostPort(p.Address)
	if err != nil {
		return p.Address
	}
	return host
}

// maxProxies bounds how many addresses of a cluster are kept.
const maxProxies = 16

// LoggedIn reports whether the profile contains a login, expired or not.
func (i Info) LoggedIn() bool { return i.User != "" }

// FirstProxy returns the proxy that is tried first, or the zero value if none is known.
func (i Info) FirstProxy() Proxy {
	if len(i.Proxies) == 0 {
		return Proxy{}
	}
	return i.Proxies[0]
}

// Proxy returns the proxy with the address, or one of which nothing else is known.
func (i Info) Proxy(address string) Proxy {
	for _, p := range i.Proxies {
		if p.Address == address {
			return p
		}
	}
	return Proxy{Address: address}
}

// AddProxy makes the proxy the first of the list.
func (i *Info) AddProxy(first Proxy) {
	isFirst := func(p Proxy) bool { return p.Address == first.Address }
	others := slices.DeleteFunc(slices.Clone(i.Proxies), isFirst)
	i.Proxies = append([]Proxy{first}, others[:min(len(others), maxProxies-1)]...)
}

// ReadInfo reads profile.json of the cluster and verifies nothing in it. It returns a NotFound fault if there
// is no profile, an Invalid fault if it is damaged or of a newer tsh, and an Internal fault if it cannot be
// read.
func (h Home) ReadInfo(cluster string) (Info, error) {
	path := filepath.Join(h.Dir(cluster), infoFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, loginMissingAt.New("", fault.Args{"place": cluster, "hint": Info{}.loginHint()})
	}
	if err != nil {
		return Info{}, readFault(path, err)
	}
	info, err := parseInfo(b)
	switch {
	case fault.CodeOf(err) != "": // of a newer tsh
		return Info{}, err
	case err == nil && info.Cluster != cluster:
		err = fmt.Errorf("it is of the cluster %.80q", info.Cluster)
	}
	if err != nil {
		return Info{}, profileDamaged.Wrap(err, "", fault.Args{
			"cluster": cluster,
			"why":     infoFile + ": " + err.Error(),
			"hint":    "remove " + path + ", then log in again: tsh login --proxy HOST",
		})
	}
	return info, nil
}

// parseInfo decodes profile.json. The error is a fault if the file is of a version, or has a critical field,
// that this tsh does not know.
func parseInfo(b []byte) (Info, error) {
	var header struct {
		V        int           `json:"v"`
		Critical wire.Critical `json:"critical"`
	}
	if err := json.Unmarshal(b, &header); err != nil {
		return Info{}, err
	}
	known := wire.Fields(Info{})
	if err := wire.Check("the profile", header.V, infoVersion, header.Critical, known...); err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(b, &info); err != nil {
		return Info{}, err
	}
	if info.Pin == (identity.Pin{}) {
		return Info{}, errors.New("it has no pin")
	}
	for _, p := range info.Proxies {
		if parsed, err := ParseProxy(p.Address); err != nil || parsed != p.Address {
			return Info{}, fmt.Errorf("%.80q is no address of a proxy", p.Address)
		}
	}
	return info, nil
}

// writeInfo writes profile.json of info.Cluster.
func (h Home) writeInfo(info Info) error {
	info.V, info.Critical = infoVersion, nil
	b, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the profile: %w", err)
	}
	path := filepath.Join(h.Dir(info.Cluster), infoFile)
	if err := durable.WriteFile(path, append(b, '\n')); err != nil {
		return writeFault(path, err)
	}
	return nil
}

// loginHint is the command that logs in again. It leaves the default port out, as users type it.
func (i Info) loginHint() string {
	if len(i.Proxies) == 0 {
		return "run: tsh login --proxy HOST"
	}
	return "run: tsh login --proxy " + strings.TrimSuffix(i.Proxies[0].Address, ":"+DefaultPort)
}

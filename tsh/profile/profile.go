// Package profile answers: what does a login leave on this machine?
//
// There is one folder for each proxy under TSH_HOME (default ~/.tsh). Folders have mode 0700 and files 0600;
// each file is replaced atomically:
//
//	current             host:port of the proxy that commands use without --proxy
//	HOST_PORT/
//	  profile.yaml      proxy, cluster and pin; who is logged in, with which logins, until when
//	  ssh_key           private key, OpenSSH PEM; ssh_key-cert.pub and ssh_key.pub beside it
//	  x509_key.pem      private key, PKCS #8; x509_cert.pem beside it, leaf first
//	  known_hosts       the host authorities, for OpenSSH
//	  authorities.json  the signed chain from the pin to the current authorities
//
// A logout removes everything but profile.yaml, in which it keeps the proxy, the cluster and the pin: so a
// later login refuses a proxy that shows another cluster root.
package profile

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// Files of a profile.
const (
	infoFile        = "profile.yaml"
	SSHKeyFile      = "ssh_key"
	SSHCertFile     = "ssh_key-cert.pub"
	sshPubFile      = "ssh_key.pub"
	x509KeyFile     = "x509_key.pem"
	x509CertFile    = "x509_cert.pem"
	KnownHostsFile  = "known_hosts"
	authoritiesFile = "authorities.json"
	currentFile     = "current"
)

// Info is profile.yaml. The fields from User on are empty after a logout.
type Info struct {
	Version int    `yaml:"version"`
	Proxy   string `yaml:"proxy"               config:"required"` // host:port
	Cluster string `yaml:"cluster,omitempty"`
	Pin     string `yaml:"pin"                 config:"required"`
	// Transport is how the proxy is reached, as its ping document said at the login. Empty: TLS.
	Transport dial.Transport   `yaml:"transport,omitempty"`
	User      string           `yaml:"user,omitempty"` // empty: logged out
	Roles     []string         `yaml:"roles,omitempty"`
	Logins    []identity.Login `yaml:"logins,omitempty"`
	Expires   time.Time        `yaml:"expires,omitempty"`
}

// infoVersion is the newest format of profile.yaml that this code reads.
const infoVersion = 1

// Profile is a login as it is on disk: keys and certificates that match each other, and authorities that are
// verified with the pin.
type Profile struct {
	Info
	Dir         string
	Pin         identity.Pin
	SSHKey      crypto.Signer
	SSHCert     *ssh.Certificate // nil if the user's roles allow no login
	X509        tls.Certificate
	Chain       []rules.Signed
	Authorities rules.ParsedAuthorities
}

// LoggedIn reports whether the profile contains a login, expired or not.
func (i Info) LoggedIn() bool { return i.User != "" }

// Host is the proxy's host name.
func (i Info) Host() string { return hostOf(i.Proxy) }

// ReadInfo reads profile.yaml of the proxy and verifies nothing in it. Without a profile it returns a
// NotFound fault.
func (h Home) ReadInfo(proxy string) (Info, error) { return readInfo(h.Dir(proxy), proxy) }

// readInfo reads profile.yaml in dir. proxy is for messages only. It returns a NotFound fault if there is no
// such file, an Invalid fault if it is damaged or of a newer tsh, and an Internal fault if it cannot be read.
func readInfo(dir, proxy string) (Info, error) {
	path := filepath.Join(dir, infoFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, notLoggedInFault(proxy)
	}
	if err != nil {
		return Info{}, readFault(path, err)
	}
	var info Info
	if err := config.Decode(path, b, &info); err != nil {
		return Info{}, damagedFault(err, proxy)
	}
	if info.Version > infoVersion {
		msg := path + " was written by a newer tsh"
		hint := "use the newer tsh, or set TSH_HOME to another folder"
		return Info{}, fault.New(fault.Invalid, "", msg, hint)
	}
	return info, nil
}

// damagedFault returns the Invalid fault for a profile that cannot be used. Its hint is a new login, which
// replaces the profile.
func damagedFault(err error, proxy string) error {
	return fault.Wrap(err, fault.Invalid, "", "the profile is damaged: "+err.Error(), loginHint(proxy))
}

// Load reads the login at the proxy and checks that its parts match each other. It does not check whether the
// login has expired: see CheckTime. It returns a NotFound fault without a login, an Invalid fault for a
// damaged one, and the other faults of readInfo.
func (h Home) Load(proxy string) (*Profile, error) {
	info, err := h.ReadInfo(proxy)
	if err != nil {
		return nil, err
	}
	if !info.LoggedIn() {
		return nil, notLoggedInFault(proxy)
	}
	prof := &Profile{Info: info, Dir: h.Dir(proxy)}
	if err := prof.read(); err != nil {
		return nil, damagedFault(err, proxy)
	}
	return prof, nil
}

// read reads the authorities and the SSH and X.509 files of the login into p; the caller has read
// profile.yaml into p.Info and set p.Dir. The pin of profile.yaml must verify the authorities, they must name
// the same cluster as profile.yaml, and each certificate must match the private key that is stored with it.
func (p *Profile) read() (err error) {
	if p.Pin, err = identity.ParsePin(p.Info.Pin); err != nil {
		return err
	}
	b, err := p.readFile(authoritiesFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &p.Chain); err != nil {
		return fmt.Errorf("%s: %w", authoritiesFile, err)
	}
	cluster, parsed, err := rules.OpenAuthorities(p.Pin, p.Chain)
	if err != nil {
		return fmt.Errorf("%s: %w", authoritiesFile, err)
	}
	if cluster != p.Info.Cluster {
		return fmt.Errorf("%s is of cluster %q, not %q", authoritiesFile, cluster, p.Info.Cluster)
	}
	p.Authorities = parsed
	return errors.Join(p.readSSH(), p.readX509())
}

// readSSH reads the SSH key and its certificate into p.SSHKey and p.SSHCert. The certificate must be for this
// key. A missing certificate is no error: the user's roles allow no login. Who signed the certificate is not
// checked: the node checks it, so a forged one is of no use.
func (p *Profile) readSSH() error {
	b, err := p.readFile(SSHKeyFile)
	if err != nil {
		return err
	}
	key, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		return fmt.Errorf("%s: %w", SSHKeyFile, err)
	}
	if p.SSHKey, err = signerOf(key); err != nil {
		return fmt.Errorf("%s: %w", SSHKeyFile, err)
	}
	b, err = p.readFile(SSHCertFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the user's roles allow no login
	}
	if err != nil {
		return err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return fmt.Errorf("%s: %w", SSHCertFile, err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return fmt.Errorf("%s contains no certificate", SSHCertFile)
	}
	own, err := ssh.NewPublicKey(p.SSHKey.Public())
	if err != nil || !bytes.Equal(cert.Key.Marshal(), own.Marshal()) {
		return fmt.Errorf("%s is not for %s", SSHCertFile, SSHKeyFile)
	}
	p.SSHCert = cert
	return nil
}

// readX509 reads the X.509 key and its certificate chain.
func (p *Profile) readX509() error {
	key, err := p.readFile(x509KeyFile)
	if err != nil {
		return err
	}
	certs, err := p.readFile(x509CertFile)
	if err != nil {
		return err
	}
	if p.X509, err = tls.X509KeyPair(certs, key); err != nil { // checks that the key matches
		return fmt.Errorf("%s: %w", x509CertFile, err)
	}
	return nil
}

func (p *Profile) readFile(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(p.Dir, name))
}

// Path returns the path of a file of the profile.
func (p *Profile) Path(name string) string { return filepath.Join(p.Dir, name) }

// CheckTime returns an Expired fault for a login that has expired, or that is not valid yet because this
// machine's clock is slow. It returns nil for a login that is valid at the time now.
func (p *Profile) CheckTime(now time.Time) error {
	leaf := p.X509.Leaf
	if now.Before(leaf.NotBefore) {
		err := &identity.ExpiredError{From: leaf.NotBefore, Until: leaf.NotAfter, Now: now}
		hint := "set this machine's clock, then try again"
		return fault.Wrap(err, fault.Expired, "", "the "+err.Error(), hint)
	}
	if !now.Before(leaf.NotAfter) {
		end := leaf.NotAfter.Local().Format("2006-01-02 15:04")
		msg := fmt.Sprintf("the login at %s expired at %s", p.Proxy, end)
		return fault.New(fault.Expired, "", msg, loginHint(p.Proxy))
	}
	return nil
}

// Save writes the login prof to the folder of its proxy, over an earlier login, and makes the proxy the
// current one. It also sets prof.Dir, prof.Version and prof.Info.Pin. It writes profile.yaml last: if the
// machine stops before, files of two logins may be mixed, and Load refuses the profile as damaged. The faults
// are writeFault's.
func (h Home) Save(prof *Profile) error {
	prof.Dir, prof.Version, prof.Info.Pin = h.Dir(prof.Proxy), infoVersion, prof.Pin.String()
	if err := h.makeDirs(prof.Dir); err != nil {
		return err
	}
	files, err := prof.files()
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(prof.Dir, f.name)
		if f.body == nil {
			err = removeFile(path)
		} else {
			err = durable.WriteFile(path, f.body)
		}
		if err != nil {
			return writeFault(path, err)
		}
	}
	return h.SetCurrent(prof.Proxy)
}

// file is one file of a profile to be written.
type file struct {
	name string
	body []byte // nil: the file is removed
}

// files encodes the profile and returns its files in the order in which Save writes them, profile.yaml last.
func (p *Profile) files() ([]file, error) {
	sshKey, err := ssh.MarshalPrivateKey(p.SSHKey, p.User+"@"+p.Cluster)
	if err != nil {
		return nil, fmt.Errorf("encode the SSH key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(p.SSHKey.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the SSH key: %w", err)
	}
	x509Key, err := x509.MarshalPKCS8PrivateKey(p.X509.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encode the X.509 key: %w", err)
	}
	var x509Certs []byte
	for _, der := range p.X509.Certificate {
		x509Certs = append(x509Certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	chain, err := json.Marshal(p.Chain)
	if err != nil {
		return nil, fmt.Errorf("encode the authorities: %w", err)
	}
	var info bytes.Buffer
	if err := config.Encode(&info, p.Info); err != nil {
		return nil, fmt.Errorf("encode the profile: %w", err)
	}
	var sshCert []byte // nil removes the certificate of an earlier login
	if p.SSHCert != nil {
		sshCert = ssh.MarshalAuthorizedKey(p.SSHCert)
	}
	return []file{
		{SSHKeyFile, pem.EncodeToMemory(sshKey)},
		{sshPubFile, ssh.MarshalAuthorizedKey(sshPub)},
		{SSHCertFile, sshCert},
		{x509KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: x509Key})},
		{x509CertFile, x509Certs},
		{authoritiesFile, chain},
		{KnownHostsFile, p.knownHosts()},
		{infoFile, info.Bytes()},
	}, nil
}

// Remove deletes the login at the proxy from this machine: keys, certificates, authorities and known hosts,
// and in profile.yaml everything but the proxy, the cluster and the pin. It removes the keys first. It
// returns a NotFound fault if there is no profile, and the faults of readInfo and writeFault.
func (h Home) Remove(proxy string) error {
	info, err := h.ReadInfo(proxy)
	if err != nil {
		return err
	}
	dir := h.Dir(proxy)
	names := []string{
		SSHKeyFile, sshPubFile, SSHCertFile, x509KeyFile, x509CertFile, authoritiesFile, KnownHostsFile,
	}
	for _, name := range names {
		if err := removeFile(filepath.Join(dir, name)); err != nil {
			return writeFault(filepath.Join(dir, name), err)
		}
	}
	loggedOut := Info{Version: infoVersion, Proxy: info.Proxy, Cluster: info.Cluster, Pin: info.Pin}
	var b bytes.Buffer
	if err := config.Encode(&b, loggedOut); err != nil {
		return fmt.Errorf("encode the profile: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, infoFile), b.Bytes()); err != nil {
		return writeFault(filepath.Join(dir, infoFile), err)
	}
	return nil
}

// signerOf narrows the result of ssh.ParseRawPrivateKey.
func signerOf(key any) (crypto.Signer, error) {
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return s, nil
}

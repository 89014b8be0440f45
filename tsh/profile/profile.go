// Package profile answers: what does a login leave on this machine?
//
// There is one folder for each proxy under TSH_HOME (default ~/.tsh). Folders have mode 0700 and files 0600;
// each file is replaced atomically:
//
//	current             the folder of the proxy that commands use without --proxy
//	HOST_PORT/
//	  profile.yaml      proxy, cluster and pin; who is logged in, with which logins, until when
//	  ssh_key           private key, OpenSSH PEM; ssh_key-cert.pub and ssh_key.pub beside it
//	  x509_key.pem      private key, PKCS #8; x509_cert.pem beside it, leaf first
//	  known_hosts       the host authorities, for OpenSSH
//	  authorities.json  the signed chain from the pin to the current authorities
//
// A logout removes everything but profile.yaml, which keeps the pin: a proxy that shows another root later is
// refused.
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

// Info is profile.yaml.
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

// LoggedIn reports whether the folder contains a login, expired or not.
func (i Info) LoggedIn() bool { return i.User != "" }

// Host is the proxy's host name.
func (i Info) Host() string { return hostOf(i.Proxy) }

// ReadInfo reads profile.yaml of the proxy and verifies nothing in it. Without a profile it returns a
// NotFound fault.
func (h Home) ReadInfo(proxy string) (Info, error) { return readInfo(h.Dir(proxy), proxy) }

// readInfo reads the profile in dir. proxy is for messages only.
func readInfo(dir, proxy string) (Info, error) {
	path := filepath.Join(dir, infoFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, notLoggedInFault(proxy)
	}
	if err != nil {
		return Info{}, readFault(path, err)
	}
	var i Info
	if err := config.Decode(path, b, &i); err != nil {
		return Info{}, damagedFault(err, proxy)
	}
	if i.Version > infoVersion {
		msg := path + " was written by a newer tsh"
		hint := "use the newer tsh, or set TSH_HOME to another folder"
		return Info{}, fault.New(fault.Invalid, "", msg, hint)
	}
	return i, nil
}

// damagedFault is the error of a profile that cannot be used. A new login replaces it.
func damagedFault(err error, proxy string) error {
	return fault.Wrap(err, fault.Invalid, "", "the profile is damaged: "+err.Error(), loginHint(proxy))
}

// Load reads the login at the proxy and checks that its parts match each other. It does not check whether the
// login has expired: see CheckTime.
func (h Home) Load(proxy string) (*Profile, error) {
	info, err := h.ReadInfo(proxy)
	if err != nil {
		return nil, err
	}
	if !info.LoggedIn() {
		return nil, notLoggedInFault(proxy)
	}
	p := &Profile{Info: info, Dir: h.Dir(proxy)}
	if err := p.read(); err != nil {
		return nil, damagedFault(err, proxy)
	}
	return p, nil
}

// read reads and verifies all files of the login but profile.yaml, which the caller has read. Everything
// depends on the pin: it verifies the authorities, and the cluster's name in them must be that of
// profile.yaml.
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
	if cluster != p.Cluster {
		return fmt.Errorf("%s is of cluster %q, not %q", authoritiesFile, cluster, p.Cluster)
	}
	p.Authorities = parsed
	return errors.Join(p.readSSH(), p.readX509())
}

// readSSH reads the SSH key and, if there is one, its certificate, which must be for this key. Who signed the
// certificate is not checked: a forged one is of no use with a node.
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

// CheckTime returns an error for a login that has expired or is not valid yet.
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

// Save writes the login to the folder of p.Proxy and makes it current. It sets p.Dir, p.Version and
// p.Info.Pin. It writes profile.yaml last. If the machine stops before that, files of two logins may be
// mixed, which Load refuses.
func (h Home) Save(p *Profile) error {
	p.Dir, p.Version, p.Info.Pin = h.Dir(p.Proxy), infoVersion, p.Pin.String()
	if err := h.makeDirs(p.Dir); err != nil {
		return err
	}
	files, err := p.files()
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(p.Dir, f.name)
		if f.body == nil {
			err = removeFile(path)
		} else {
			err = durable.WriteFile(path, f.body)
		}
		if err != nil {
			return writeFault(path, err)
		}
	}
	return h.SetCurrent(p.Proxy)
}

// file is one file of a profile to be written.
type file struct {
	name string
	body []byte // nil: the file is removed
}

// files returns the files of the profile, in the order in which they are written.
func (p *Profile) files() ([]file, error) {
	sshKey, err := ssh.MarshalPrivateKey(p.SSHKey, p.User+"@"+p.Cluster)
	if err != nil {
		return nil, fmt.Errorf("encode the SSH key: %w", err)
	}
	pub, err := ssh.NewPublicKey(p.SSHKey.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the SSH key: %w", err)
	}
	x509Key, err := x509.MarshalPKCS8PrivateKey(p.X509.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encode the X.509 key: %w", err)
	}
	var certs []byte
	for _, der := range p.X509.Certificate {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	chain, err := json.Marshal(p.Chain)
	if err != nil {
		return nil, fmt.Errorf("encode the authorities: %w", err)
	}
	var info bytes.Buffer
	if err := config.Encode(&info, p.Info); err != nil {
		return nil, fmt.Errorf("encode the profile: %w", err)
	}
	var sshCert []byte
	if p.SSHCert != nil {
		sshCert = ssh.MarshalAuthorizedKey(p.SSHCert)
	}
	return []file{
		{SSHKeyFile, pem.EncodeToMemory(sshKey)},
		{sshPubFile, ssh.MarshalAuthorizedKey(pub)},
		{SSHCertFile, sshCert},
		{x509KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: x509Key})},
		{x509CertFile, certs},
		{authoritiesFile, chain},
		{KnownHostsFile, p.knownHosts()},
		{infoFile, info.Bytes()},
	}, nil
}

// Remove logs out at the proxy on this machine: it removes everything but the pin.
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

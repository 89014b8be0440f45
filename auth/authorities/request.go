package authorities

import (
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
)

// Version is the version of requests and answers that this code writes, and the newest that it reads.
const Version = 1

// Request asks the holder of the root key to sign the next authorities document. It holds no secret.
type Request struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
	Cluster  string        `json:"cluster"`
	Pin      identity.Pin  `json:"pin"`
	Created  time.Time     `json:"created"`
	Epoch    uint64        `json:"epoch"` // of the document to sign: one more than now
	// Body is the document's body. The entry of a new key of service-x509 has neither key nor id: the root
	// first signs its certificate.
	Body    signed.Authorities `json:"body"`
	Service *ServiceKey        `json:"service,omitempty"`
	DropOld bool               `json:"drop_old,omitempty"` // the replaced keys are not in the body
}

// ServiceKey is a new key of service-x509.
type ServiceKey struct {
	Generation int    `json:"generation"`
	Public     []byte `json:"public"` // SubjectPublicKeyInfo, DER
}

// Answer is what the holder of the root key gives back.
type Answer struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
	Link     signed.Signed `json:"link"`
}

// ReadRequest reads a request. Anything else is fault Invalid.
func ReadRequest(raw []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, requestInvalid.Wrap(err, "authorities", fault.Args{"why": "it is not JSON of a request"})
	}
	return r, wire.Check("the request for the root", r.V, Version, r.Critical, wire.Fields(Request{})...)
}

// ReadAnswer reads an answer. Anything else is fault Invalid.
func ReadAnswer(raw []byte) (Answer, error) {
	var a Answer
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, answerInvalid.Wrap(err, "authorities", fault.Args{"why": "it is not JSON of an answer"})
	}
	return a, wire.Check("the root's answer", a.V, Version, a.Critical, wire.Fields(Answer{})...)
}

// isOpen reports whether an entry waits for the certificate of a new service authority.
func isOpen(k signed.AuthorityKey) bool { return k.Authority == signed.ServiceX509 && len(k.Key) == 0 }

// Sign signs what a request asks for. It runs on the operator's machine. A request of another cluster or root
// is fault Denied.
func Sign(root *keyring.RootKey, r Request, now time.Time) (Answer, error) {
	if r.Cluster != root.Cluster() || r.Pin != root.Pin() {
		return Answer{}, rootOfOtherCluster.New("authorities.Sign", fault.Args{
			"wanted":  r.Cluster,
			"pin":     r.Pin,
			"cluster": root.Cluster(),
			"found":   root.Pin(),
		})
	}
	body := signed.Authorities{Root: root.Certificate().Raw}
	for _, k := range r.Body.Keys {
		if isOpen(k) {
			cert, err := signService(root, r.Service, now)
			if err != nil {
				return Answer{}, err
			}
			k = signed.X509Key(k.Authority, r.Service.Generation, k.State, cert)
		}
		body.Keys = append(body.Keys, k)
	}
	revision := signed.Revision{Epoch: r.Epoch, Index: 1}
	link, err := rules.SignAuthorities(root.Signer(), r.Cluster, revision, body, now)
	if err != nil {
		return Answer{}, err
	}
	// What verifiers would refuse must not leave this machine.
	if _, _, err := signed.OpenAuthorities(root.Pin(), []signed.Signed{link}); err != nil {
		return Answer{}, requestInvalid.Wrap(err, "authorities.Sign", fault.Args{"why": err.Error()})
	}
	return Answer{V: Version, Link: link}, nil
}

// signService signs the certificate of a new service authority.
func signService(root *keyring.RootKey, k *ServiceKey, now time.Time) (*x509.Certificate, error) {
	if k == nil {
		why := "the new key of service-x509 is missing"
		return nil, requestInvalid.New("authorities.Sign", fault.Args{"why": why})
	}
	public, err := x509.ParsePKIXPublicKey(k.Public)
	if err != nil {
		why := "the new key of service-x509 is malformed"
		return nil, requestInvalid.Wrap(err, "authorities.Sign", fault.Args{"why": why})
	}
	cert, err := root.SignService(k.Generation, public, now)
	why := "the new key of service-x509 cannot be certified"
	return cert, requestInvalid.Wrap(err, "authorities.Sign", fault.Args{"why": why})
}

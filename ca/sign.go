package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
	"go.step.sm/crypto/sshutil"
)

// newX509Signer makes a signer for one X.509 authority of the keyring. It calls active at every signature to
// get the authority's certificate and key. The result of active never changes, because a Keyring does not
// change after it was opened: after a rotation, auth must be restarted to sign with the new key.
func newX509Signer(active func() (*x509.Certificate, crypto.Signer)) (*softcas.SoftCAS, error) {
	options := apiv1.Options{
		Type: apiv1.SoftCAS,
		CertificateSigner: func() ([]*x509.Certificate, crypto.Signer, error) {
			cert, key := active()
			return []*x509.Certificate{cert}, key, nil
		},
	}
	cas, err := softcas.New(context.Background(), options)
	if err != nil {
		return nil, fmt.Errorf("make an X.509 signer: %w", err)
	}
	return cas, nil
}

// sign signs the certificates of a draft that lint has accepted, and returns them without a Record. The
// profile selects the authority: user-ssh or host-ssh, user-x509 or service-x509.
func (c *CA) sign(d *draft) (out Issued, err error) {
	if d.ssh != nil {
		signer := c.keys.HostSSH()
		if d.profile == User {
			signer = c.keys.UserSSH()
		}
		if out.SSH, err = sshutil.CreateCertificate(d.ssh, signer); err != nil {
			return Issued{}, fmt.Errorf("ssh: %w", err)
		}
	}
	if d.x509 != nil {
		if err := c.signX509(d, &out); err != nil {
			return Issued{}, fmt.Errorf("x509: %w", err)
		}
	}
	return out, nil
}

// signX509 signs the X.509 certificate of d and sets out.X509 and out.Chain. The chain of a user certificate
// is the certificate alone, because verifiers have the user authority's certificate. The chain of a service
// certificate also has the intermediate and the cluster root: a client that knows only the pin verifies it.
func (c *CA) signX509(d *draft, out *Issued) error {
	cas := c.service
	if d.profile == User {
		cas = c.user
	}
	req := &apiv1.CreateCertificateRequest{Template: d.x509, Lifetime: d.until.Sub(d.from)}
	resp, err := cas.CreateCertificate(req)
	if err != nil {
		return err
	}
	out.X509, out.Chain = resp.Certificate, []*x509.Certificate{resp.Certificate}
	if d.profile == Service {
		out.Chain = append(append(out.Chain, resp.CertificateChain...), c.keys.Root())
	}
	return nil
}

package dial

import (
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/wire"
)

// CertificateUpdates, of a node: it takes a newer certificate of the user while a connection is open, by
// CertificateUpdate. Of a client: it shows one when the user has logged in again.
const CertificateUpdates wire.Feature = "certificate-updates"

// CertificateUpdate is the name of a global request that wants a reply. By it a client shows a newer
// certificate of the same user, which then counts in the place of the one by which the connection was opened:
// the node decides by it, and the connection ends with it. Its payload is what SignCertificateUpdate returns.
// The reply to a refusal is a fault, if the client has the feature Faults.
const CertificateUpdate = "certificate@threshold"

// maxCertificateUpdate bounds the payload of a CertificateUpdate, in bytes.
const maxCertificateUpdate = 32 << 10

// certificateUpdate is the payload of CertificateUpdate, in the encoding of SSH.
type certificateUpdate struct {
	Certificate []byte
	Signature   []byte
}

// updateToSign is what the key of the certificate signs. It names the SSH session, so that a node cannot use
// it on another connection. The signature by which a client logs in (RFC 4252 section 7) can never be taken
// for one: it has the byte 50 where this has the length of a short name.
type updateToSign struct {
	SessionID   []byte
	Name        string
	Certificate []byte
}

func updateMessage(sessionID, certificate []byte) []byte {
	return ssh.Marshal(updateToSign{sessionID, CertificateUpdate, certificate})
}

// SignCertificateUpdate returns the payload of a CertificateUpdate for the SSH session with the id. key is
// that of the certificate.
func SignCertificateUpdate(sessionID []byte, cert *ssh.Certificate, key ssh.Signer) ([]byte, error) {
	encoded := cert.Marshal()
	signature, err := key.Sign(rand.Reader, updateMessage(sessionID, encoded))
	if err != nil {
		return nil, fmt.Errorf("sign for the node: %w", err)
	}
	return ssh.Marshal(certificateUpdate{encoded, ssh.Marshal(signature)}), nil
}

// OpenCertificateUpdate reads the payload of a CertificateUpdate, and returns the certificate of which the
// client has proved on this SSH session that it holds the key. It does not verify the certificate.
func OpenCertificateUpdate(sessionID, payload []byte) (*ssh.Certificate, error) {
	if len(payload) > maxCertificateUpdate {
		return nil, fmt.Errorf("dial: %d bytes are more than %d", len(payload), maxCertificateUpdate)
	}
	var update certificateUpdate
	if err := ssh.Unmarshal(payload, &update); err != nil {
		return nil, fmt.Errorf("the newer certificate: %w", err)
	}
	key, err := ssh.ParsePublicKey(update.Certificate)
	if err != nil {
		return nil, fmt.Errorf("the newer certificate: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("there is a key in the place of the newer certificate")
	}
	var signature ssh.Signature
	if err := ssh.Unmarshal(update.Signature, &signature); err != nil {
		return nil, fmt.Errorf("the signature for the newer certificate: %w", err)
	}
	if err := cert.Key.Verify(updateMessage(sessionID, update.Certificate), &signature); err != nil {
		return nil, fmt.Errorf("the signature for the newer certificate: %w", err)
	}
	return cert, nil
}

package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Body is what an event of one code says besides the envelope. Each code has a type of its own below, and no
// other package can add one. A text without omitempty is never empty.
type Body interface{ code() Code }

// Login says how a user logged in.
type Login struct {
	Factor   string `json:"factor"`             // the way of the second factor, as totp or recovery
	Host     string `json:"host,omitempty"`     // what the computer that asked for the login calls itself
	Headless string `json:"headless,omitempty"` // the address of that computer, if it has no browser
}

// LoginRefusal says why a login was refused.
type LoginRefusal struct {
	Reason string `json:"reason"` // in English
}

// FactorEnrolment says which second factor was enrolled.
type FactorEnrolment struct {
	Factor string `json:"factor"` // the way of the second factor, as totp
}

// FactorLockout says how long no second factor of the user is accepted.
type FactorLockout struct {
	Until time.Time `json:"until"` // the end of the lockout
}

// RecoveryUse has nothing to add to the envelope.
type RecoveryUse struct{}

// Issuance says which certificate was issued.
type Issuance struct {
	Serial identity.Serial `json:"serial,string"` // in decimal digits
	Until  time.Time       `json:"until"`         // the end of the certificate
}

// Renewal says which certificate a machine got.
type Renewal Issuance

// Join says how a machine became a member.
type Join struct {
	Kind  identity.Kind `json:"kind"`         // node or proxy
	Token string        `json:"token"`        // the name of the join token
	By    string        `json:"by,omitempty"` // who created the token
}

// JoinRefusal says which token was refused, and why.
type JoinRefusal struct {
	Kind   identity.Kind `json:"kind"`   // the kind of machine that the token is for
	Token  string        `json:"token"`  // the name of the join token
	Reason string        `json:"reason"` // in English
}

// SessionStart says what started.
type SessionStart struct {
	Session  string         `json:"session"`            // the same in all events of one session
	Login    identity.Login `json:"login"`              // the account
	Program  string         `json:"program"`            // shell, exec or sftp
	Command  string         `json:"command,omitempty"`  // of an exec; a long one is cut
	Terminal bool           `json:"terminal,omitempty"` // whether the program has a terminal
	Protocol string         `json:"protocol,omitempty"` // how the client came to the proxy: dial or ssh
	Rule     string         `json:"rule,omitempty"`     // the entry of a role that decided
}

// SessionEnd says how a session ended. It has a status or a signal.
type SessionEnd struct {
	Session  string         `json:"session"`            // the same in all events of one session
	Login    identity.Login `json:"login"`              // the account
	Program  string         `json:"program"`            // shell, exec or sftp
	Terminal bool           `json:"terminal,omitempty"` // whether the program has a terminal
	Protocol string         `json:"protocol,omitempty"` // how the client came to the proxy: dial or ssh
	Rule     string         `json:"rule,omitempty"`     // the entry of a role that decided
	BytesIn  int64          `json:"bytes_in"`           // what the client sent to the program
	BytesOut int64          `json:"bytes_out"`          // what the program sent to the client
	Status   *int           `json:"status,omitempty"`   // the exit status
	Signal   string         `json:"signal,omitempty"`   // the signal that ended the program, as KILL
	Cause    string         `json:"cause,omitempty"`    // of an end by the node, as idle or stop
	Reason   string         `json:"reason,omitempty"`   // what the user read then, in English
}

// SessionRefusal says what a node refused to a user.
type SessionRefusal struct {
	Login    identity.Login `json:"login,omitempty"`    // the account
	Request  string         `json:"request,omitempty"`  // what the user asked for, as exec or direct-tcpip
	Protocol string         `json:"protocol,omitempty"` // how the client came to the proxy: dial or ssh
	Rule     string         `json:"rule,omitempty"`     // the entry of a role that decided
	Reason   string         `json:"reason,omitempty"`   // in English
}

// ForwardStart says what is forwarded.
type ForwardStart struct {
	Login    identity.Login `json:"login"`              // the account
	Forward  string         `json:"forward"`            // local, remote or agent
	Target   string         `json:"target,omitempty"`   // from or to where
	Protocol string         `json:"protocol,omitempty"` // how the client came to the proxy: dial or ssh
	Rule     string         `json:"rule,omitempty"`     // the entry of a role that decided
}

// ResourceChange has a resource before and after a change.
type ResourceChange struct {
	Kind   string    `json:"kind"`             // the kind of resource, as roles
	Name   string    `json:"name"`             // the name of the resource
	Before *Document `json:"before,omitempty"` // absent for a resource that is new
	After  *Document `json:"after"`            // the resource after the change
}

// ResourceRemoval has the resource that was removed.
type ResourceRemoval struct {
	Kind   string    `json:"kind"`   // the kind of resource, as roles
	Name   string    `json:"name"`   // the name of the resource
	Before *Document `json:"before"` // the resource that was removed
}

// ResourceRefusal says which change was refused.
type ResourceRefusal struct {
	Action string `json:"action"`         // get, apply or remove
	Kind   string `json:"kind"`           // the kind of resource, as roles
	Name   string `json:"name,omitempty"` // the name of the resource; none for a whole kind
	Rule   string `json:"rule,omitempty"` // the entry of a role that decided
	Reason string `json:"reason"`         // in English
}

// TokenCreation has a new join token.
type TokenCreation struct {
	Token   string        `json:"token"`   // the name of the join token
	Kind    identity.Kind `json:"kind"`    // the kind of machine that the token is for
	Expires time.Time     `json:"expires"` // the end of the token
	After   *Document     `json:"after"`   // the token's record, with the SHA-256 of the secret
}

// ClusterCreation says which cluster was created.
type ClusterCreation struct {
	Cluster string `json:"cluster"` // its name
	Pin     string `json:"pin"`     // of its root key
}

// AuthStart says what started.
type AuthStart struct {
	Version string `json:"version,omitempty"` // the release
}

// LogTrim says which events were dropped, and what the digest of the log was there. The digest covers every
// event from the first on, so those that remain can still be checked against it.
type LogTrim struct {
	Before    uint64 `json:"before"`    // the number of the first event that remains
	Digest    string `json:"digest"`    // the running SHA-256 of the log up to there, in hex
	Retention string `json:"retention"` // the setting by which they were dropped
}

func (Login) code() Code           { return LoginSucceeded }
func (LoginRefusal) code() Code    { return LoginRefused }
func (FactorEnrolment) code() Code { return FactorEnrolled }
func (FactorLockout) code() Code   { return FactorLocked }
func (RecoveryUse) code() Code     { return RecoveryUsed }
func (Issuance) code() Code        { return CertIssued }
func (Renewal) code() Code         { return CertRenewed }
func (Join) code() Code            { return MachineJoined }
func (JoinRefusal) code() Code     { return JoinRefused }
func (SessionStart) code() Code    { return SessionStarted }
func (SessionEnd) code() Code      { return SessionEnded }
func (SessionRefusal) code() Code  { return SessionRefused }
func (ForwardStart) code() Code    { return ForwardStarted }
func (ResourceChange) code() Code  { return ResourceApplied }
func (ResourceRemoval) code() Code { return ResourceRemoved }
func (ResourceRefusal) code() Code { return ResourceRefused }
func (TokenCreation) code() Code   { return TokenCreated }
func (ClusterCreation) code() Code { return ClusterCreated }
func (AuthStart) code() Code       { return AuthStarted }
func (LogTrim) code() Code         { return LogTrimmed }

// Document is a resource inside an event. Secrets in it are replaced by DigestSecret.
type Document struct {
	Resource json.RawMessage `json:"resource,omitempty"` // left out if it is larger than 24 KiB
	Bytes    int             `json:"bytes"`              // the size of its JSON
	SHA256   string          `json:"sha256"`             // of its JSON, in hex
}

// maxDocumentBytes bounds a resource inside an event, so that two fit into one event.
const maxDocumentBytes = 24 << 10

// NewDocument makes a document of a resource without secrets.
func NewDocument(resource any) (*Document, error) {
	b, err := json.Marshal(resource)
	if err != nil {
		return nil, fmt.Errorf("encode a resource for an event: %w", err)
	}
	sum := sha256.Sum256(b)
	d := &Document{Bytes: len(b), SHA256: hex.EncodeToString(sum[:])}
	if len(b) <= maxDocumentBytes {
		d.Resource = b
	}
	return d, nil
}

// DigestSecret returns what stands for a secret in a document: two secrets can be told apart, and neither can
// be read. An empty one stays empty.
func DigestSecret(secret string) string {
	if secret == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(sum[:])
}

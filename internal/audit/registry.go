package audit

import (
	"reflect"

	"github.com/threshold-access/threshold/internal/wire"
)

// Code names a kind of event. Codes are append-only and never reused.
type Code string

const (
	LoginSucceeded  Code = "TH1001"
	LoginRefused    Code = "TH1002" // after the provider identified the user
	FactorEnrolled  Code = "TH1003"
	FactorLocked    Code = "TH1004"
	RecoveryUsed    Code = "TH1005"
	CertIssued      Code = "TH2001"
	CertRenewed     Code = "TH2002"
	MachineJoined   Code = "TH2003"
	JoinRefused     Code = "TH2004"
	SessionStarted  Code = "TH3001"
	SessionEnded    Code = "TH3002"
	SessionRefused  Code = "TH3003"
	ForwardStarted  Code = "TH3004"
	ResourceApplied Code = "TH4001"
	ResourceRemoved Code = "TH4002"
	ResourceRefused Code = "TH4003"
	TokenCreated    Code = "TH4004"
	ClusterCreated  Code = "TH5001"
	AuthStarted     Code = "TH5002"
	LogTrimmed      Code = "TH5003"
)

// Outcome says whether what was asked for happened.
type Outcome string

const (
	Success Outcome = "success"
	Denied  Outcome = "denied"
)

// Entry is what is registered about a code.
type Entry struct {
	Code        Code
	Since       int // the version of events from which on the code exists
	Outcome     Outcome
	Description string
	Body        Body // the zero value of the type
}

// registry has every code. docs/audit.schema.json is generated from it: make schema.
var registry = []Entry{
	{LoginSucceeded, 1, Success, "a user logged in with provider and second factor", Login{}},
	{
		LoginRefused, 1, Denied,
		"a login was refused after the provider identified the user", LoginRefusal{},
	},
	{FactorEnrolled, 1, Success, "a second factor was enrolled", FactorEnrolment{}},
	{FactorLocked, 1, Denied, "a second factor was locked after wrong codes", FactorLockout{}},
	{RecoveryUsed, 1, Success, "a recovery code was used in place of the second factor", RecoveryUse{}},
	{CertIssued, 1, Success, "certificates were issued", Issuance{}},
	{CertRenewed, 1, Success, "a machine's certificates were renewed", Renewal{}},
	{MachineJoined, 1, Success, "a machine joined the cluster", Join{}},
	{JoinRefused, 1, Denied, "a machine was refused whose join token was once valid", JoinRefusal{}},
	{SessionStarted, 1, Success, "a session started on a node", SessionStart{}},
	{SessionEnded, 1, Success, "a session ended on a node", SessionEnd{}},
	{SessionRefused, 1, Denied, "a node refused a user", SessionRefusal{}},
	{
		ForwardStarted, 1, Success,
		"a port, socket or SSH agent was forwarded through a node", ForwardStart{},
	},
	{ResourceApplied, 1, Success, "a resource was created or changed", ResourceChange{}},
	{ResourceRemoved, 1, Success, "a resource was removed", ResourceRemoval{}},
	{ResourceRefused, 1, Denied, "a change of a resource was refused", ResourceRefusal{}},
	{TokenCreated, 1, Success, "a join token was created", TokenCreation{}},
	{ClusterCreated, 1, Success, "the cluster was created", ClusterCreation{}},
	{AuthStarted, 1, Success, "an auth replica started", AuthStart{}},
	{LogTrimmed, 1, Success, "old events were dropped", LogTrim{}},
}

var byCode = indexRegistry()

func indexRegistry() map[Code]Entry {
	index := make(map[Code]Entry, len(registry))
	for _, entry := range registry {
		index[entry.Code] = entry
	}
	return index
}

// fieldsFor returns the names that the list of critical fields of an event may have: those of the envelope,
// and those of the body as "body.x". Nearly every list is empty, and then it makes none.
func (e Entry) fieldsFor(critical []string) []string {
	if len(critical) == 0 {
		return nil
	}
	fields := wire.Fields(Event{})
	for _, name := range wire.Fields(e.Body) {
		fields = append(fields, "body."+name)
	}
	return fields
}

// Registry returns every code with what is registered about it, ordered by code.
func Registry() []Entry { return registry }

// Describe returns what a code stands for, or "" for one that is not registered.
func Describe(code Code) string { return byCode[code].Description }

// newBody returns a pointer to a zero value of the body's type.
func (e Entry) newBody() any { return reflect.New(reflect.TypeOf(e.Body)).Interface() }

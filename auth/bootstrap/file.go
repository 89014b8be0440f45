// Package bootstrap answers: how is a cluster created?
//
// A bootstrap file names the cluster, its seal, its first connector and the claim that makes a user an
// administrator; it may add roles and connectors. Parse checks the file without touching anything. Create
// generates the authorities and stores the cluster in one transaction. The root of auth calls it once, on an
// empty store.
package bootstrap

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/identity"
)

// File is a bootstrap file that has been checked: one document of kind cluster, and any number of roles and
// connectors. Only Parse makes one.
type File struct {
	cluster    string // the cluster's name
	seal       string // key URI
	rootStored bool   // the store keeps the root key
	roles      []access.Role
	connectors []state.NamedConnector
}

// Cluster is the name of the cluster that the file creates.
func (f *File) Cluster() string { return f.cluster }

// RootInStore reports whether the store of the new cluster keeps the root key. Otherwise it must be written
// to a file.
func (f *File) RootInStore() bool { return f.rootStored }

// clusterSpec is the spec of the cluster document.
type clusterSpec struct {
	Seal      string        `yaml:"seal"      config:"required"` // key URI; a missing file:// is created
	Connector connectorSpec `yaml:"connector" config:"required"`
	Admin     adminClaim    `yaml:"admin"     config:"required"`
	// RootKey is "file" by default. "store" is for demos and tests: see keyring.NewCluster.
	RootKey string `yaml:"root_key"`
}

// Values of clusterSpec.RootKey.
const (
	rootInFile  = "file"
	rootInStore = "store"
)

// Check implements config.Checker.
func (c clusterSpec) Check(report func(path, format string, args ...any)) {
	u, err := url.Parse(c.Seal)
	if err != nil || u.Scheme == "" {
		report("seal", "is not a key URI: name a key file, for example file:///etc/threshold/seal.key")
	}
	if c.RootKey != "" && c.RootKey != rootInFile && c.RootKey != rootInStore {
		report("root_key", "is %q: it is %s, or %s for a cluster that nobody relies on",
			c.RootKey, rootInFile, rootInStore)
	}
}

// connectorSpec is the first connector: the spec of a connector with its name.
type connectorSpec struct {
	Name      string `yaml:"name" config:"required"`
	oidc.Spec `yaml:",inline"`
}

// Check implements config.Checker.
func (c connectorSpec) Check(report func(path, format string, args ...any)) {
	if err := identity.CheckWord("connector", c.Name); err != nil {
		report("name", "%v", err)
	}
	c.Spec.Check(report)
}

// adminClaim is the claim of the first connector that makes a user an administrator.
type adminClaim struct {
	Claim string `yaml:"claim" config:"required"`
	Value string `yaml:"value" config:"required"`
}

// Check implements config.Checker.
func (a adminClaim) Check(report func(path, format string, args ...any)) {
	if strings.Trim(a.Value, "*?") == "" {
		report("value", "%q would make an administrator of everyone who has the claim", a.Value)
	}
}

// Parse reads and checks the text of a bootstrap file. name is the file's name in error messages. The error
// lists everything that is wrong with the file. Parse reads no other file and creates nothing.
func Parse(name string, data []byte) (*File, error) {
	docs, err := config.DecodeAll(name, data)
	faults := []error{err}
	file := &File{roles: []access.Role{resources.BuiltInAdmin()}} // every cluster has this role
	clusters := 0
	for _, doc := range docs { // those that could be read, also if err is set
		if doc.Kind == "cluster" {
			clusters++
		}
		faults = append(faults, file.add(doc, clusters))
	}
	if err == nil && clusters == 0 {
		msg := "there is no document of kind cluster: a bootstrap file has exactly one"
		faults = append(faults, config.Faults{{File: name, Line: 1, Msg: msg}})
	}
	if err := config.Join(faults...); err != nil {
		return nil, err
	}
	if err := resources.CheckSize(file.roles); err != nil {
		return nil, err
	}
	return file, nil
}

// add checks one document and takes its content into f. The error lists everything that is wrong with the
// document. clusters is the number of cluster documents up to this one, itself included.
func (f *File) add(doc config.Document, clusters int) error {
	var faults config.Faults
	if doc.Version != resources.Version {
		faults = append(faults, doc.Fault("version %q of a %s is not known: write version: %s",
			doc.Version, doc.Kind, resources.Version))
	}
	var err error
	switch doc.Kind {
	case "cluster":
		if clusters > 1 {
			second := doc.Fault("a second cluster document: a bootstrap file creates one cluster")
			faults = append(faults, second)
		}
		err = f.setCluster(doc)
	case "role":
		err = f.addRole(doc)
	case "connector":
		var spec oidc.Spec
		if err = doc.Spec(&spec); err == nil {
			err = f.addConnector(doc, doc.Metadata.Name, spec)
		}
	default:
		unknown := doc.Fault("kind %q is not known here; known: cluster, role, connector", doc.Kind)
		faults = append(faults, unknown)
	}
	if len(faults) == 0 {
		return err
	}
	return config.Join(faults, err)
}

// setCluster takes the name, the seal and the first connector from the cluster document. The administrator's
// claim becomes a rule of that connector, which gives the admin role to every user who has the claim.
func (f *File) setCluster(doc config.Document) error {
	var spec clusterSpec
	err := doc.Spec(&spec)
	if nameErr := identity.CheckCluster(doc.Metadata.Name); nameErr != nil {
		err = config.Join(err, config.Faults{doc.Fault("metadata.name: %v", nameErr)})
	}
	if err != nil {
		return err
	}
	f.cluster, f.seal, f.rootStored = doc.Metadata.Name, spec.Seal, spec.RootKey == rootInStore
	admin := oidc.RoleRule{
		Claim: spec.Admin.Claim,
		Value: spec.Admin.Value,
		Roles: config.Strings{state.AdminRole},
	}
	spec.Connector.Roles = append(spec.Connector.Roles, admin)
	return f.addConnector(doc, spec.Connector.Name, spec.Connector.Spec)
}

// addRole adds the role of a role document. A name that the file has used, or that of the built-in role, is
// an error.
func (f *File) addRole(doc config.Document) error {
	var role access.Role
	if err := doc.Spec(&role); err != nil {
		return err
	}
	if err := identity.CheckWord("role", doc.Metadata.Name); err != nil {
		return config.Faults{doc.Fault("metadata.name: %v", err)}
	}
	role.Name = doc.Metadata.Name
	for _, existing := range f.roles {
		switch {
		case existing.Name != role.Name:
			continue
		case role.Name == state.AdminRole:
			return config.Faults{doc.Fault("the role %s is built in: give this one another name", role.Name)}
		default:
			return config.Faults{doc.Fault("the role %s is in this file twice", role.Name)}
		}
	}
	f.roles = append(f.roles, role)
	return nil
}

// addConnector adds a connector under the name. doc is the document that it comes from, for the line numbers
// of errors: a connector document, or the cluster document for the first connector.
func (f *File) addConnector(doc config.Document, name string, spec oidc.Spec) error {
	if err := identity.CheckWord("connector", name); err != nil {
		return config.Faults{doc.Fault("metadata.name: %v", err)}
	}
	for _, c := range f.connectors {
		if c.Name == name {
			return config.Faults{doc.Fault("the connector %s is in this file twice", name)}
		}
	}
	connector, err := spec.Record()
	if err != nil {
		return fmt.Errorf("connector %s: %w", name, err)
	}
	f.connectors = append(f.connectors, state.NamedConnector{Name: name, Connector: connector})
	return nil
}

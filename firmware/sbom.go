package firmware

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/dpkg"
)

// spdxDocument is a bill of materials, SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3).
type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	License       string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Created       spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	Name          string         `json:"name"`
	ID            string         `json:"SPDXID"`
	Version       string         `json:"versionInfo"`
	Supplier      string         `json:"supplier"`
	Download      string         `json:"downloadLocation"`
	FilesAnalyzed bool           `json:"filesAnalyzed"`
	Homepage      string         `json:"homepage,omitempty"`
	Source        string         `json:"sourceInfo"`
	License       string         `json:"licenseConcluded"`
	Declared      string         `json:"licenseDeclared"`
	Copyright     string         `json:"copyrightText"`
	References    []spdxExternal `json:"externalRefs"`
}

type spdxExternal struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// unasserted is what SPDX has for what is not known: licences are in /usr/share/doc of the root.
const unasserted = "NOASSERTION"

// spdx returns the bill of materials of a root. The same packages give the same bytes.
func spdx(packages []dpkg.Package, arch string) ([]byte, error) {
	d := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "toe-debian-" + arch,
		Created: spdxCreation{
			Created: time.Unix(debianEpoch, 0).UTC().Format(time.RFC3339), Creators: []string{"Tool: toe-firmware-build"},
		},
		Relationships: []spdxRelationship{},
	}
	all := sha256.New()
	for i, p := range packages {
		id := fmt.Sprintf("SPDXRef-Package-%d", i)
		d.Packages = append(d.Packages, spdxOf(p, id))
		d.Relationships = append(d.Relationships, spdxRelationship{d.ID, "DESCRIBES", id})
		fmt.Fprintln(all, p.Name, p.Version, p.Arch)
	}
	d.Namespace = "urn:toe:sbom:" + hex.EncodeToString(all.Sum(nil)[:16])
	b, err := json.MarshalIndent(d, "", " ")
	return append(b, '\n'), err
}

func spdxOf(p dpkg.Package, id string) spdxPackage {
	supplier := unasserted
	if p.Maintainer != "" {
		supplier = "Person: " + p.Maintainer
	}
	kind := "debian"
	if strings.HasPrefix(p.Name, "toe-") {
		kind = "toe"
	}
	purl := fmt.Sprintf("pkg:deb/%s/%s@%s?arch=%s&distro=debian-13",
		kind, url.PathEscape(p.Name), url.QueryEscape(p.Version), p.Arch)
	return spdxPackage{
		Name: p.Name, ID: id, Version: p.Version, Supplier: supplier, Download: unasserted, Homepage: p.Homepage,
		Source:  "built from the source package " + p.Source + " " + p.SourceVersion,
		License: unasserted, Declared: unasserted, Copyright: unasserted,
		References: []spdxExternal{{"PACKAGE-MANAGER", "purl", purl}},
	}
}

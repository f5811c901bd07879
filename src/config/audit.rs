//! `[audit]`: what is written of each call, and where it waits for the database.
//!
//! Decides where the spool is when nobody says. Never looks into it.

use std::path::{Path, PathBuf};

use super::{
    problems::Complaint,
    reader::{Read, Reader},
};
use crate::{record::audit::Settings, store::DatabaseUrl};

/// The folder's name, where the gateway chooses.
const FOLDER: &str = "audit-spool";

/// Reads the table.
pub(super) fn read(table: &mut Reader<'_>, database: Option<&DatabaseUrl>) -> Read<(Settings, String)> {
    let is_on = table.flag("enabled", "${ENABLE_API_ANALYTICS:-true}");
    let spool_dir =
        table.parsed("spool_dir", "${PORTCULLIS_AUDIT_SPOOL_DIR:-}", |text| directory(text, database));
    let spool_max_bytes = table.integer("spool_max_bytes", 1 << 30, 1 << 20..=1 << 40);
    let retention_days = table.integer("retention_days", 90, 0..=36_500);
    let place = table.place_of("spool_dir");
    let settings = Settings {
        is_on: is_on?,
        spool_dir: spool_dir?,
        spool_max_bytes: spool_max_bytes?,
        // The range ends within 32 bits.
        retention_days: retention_days? as u32,
    };
    Ok((settings, place))
}

/// Where it says, else beside the database's file, else where the gateway was started.
fn directory(text: &str, database: Option<&DatabaseUrl>) -> Result<PathBuf, Complaint> {
    if !text.is_empty() {
        return Ok(PathBuf::from(text));
    }
    Ok(match database {
        Some(DatabaseUrl::Sqlite(file)) => file.parent().unwrap_or(Path::new("")).join(FOLDER),
        Some(DatabaseUrl::Postgres(_)) | None => PathBuf::from(FOLDER),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check, read};

    #[test]
    fn the_spool_is_beside_the_database_unless_somebody_says_where() {
        let spool = |text: &str, pairs: &[(&str, &str)]| {
            read(text, "", pairs).unwrap().audit.spool_dir.display().to_string()
        };
        assert_eq!(spool("", &[]), "audit-spool");
        assert_eq!(spool("", &[("DATABASE_URL", "sqlite:/tmp/p.db")]), "/tmp/audit-spool");
        assert_eq!(spool("", &[("DATABASE_URL", "postgres://a@127.0.0.1:1/x")]), "audit-spool");
        assert_eq!(spool("", &[("PORTCULLIS_AUDIT_SPOOL_DIR", "/a/b")]), "/a/b");
        assert_eq!(spool("[audit]\nspool_dir = '/c'", &[("PORTCULLIS_AUDIT_SPOOL_DIR", "/a/b")]), "/c");
    }

    #[test]
    fn the_variable_of_the_earlier_gateway_switches_it() {
        let is_on = |text: &str, pairs: &[(&str, &str)]| read(text, "", pairs).unwrap().audit.is_on;
        assert!(is_on("", &[]) && is_on("", &[("ENABLE_API_ANALYTICS", "")]));
        assert!(!is_on("", &[("ENABLE_API_ANALYTICS", "False")]));
        assert!(is_on("[audit]\nenabled = true", &[("ENABLE_API_ANALYTICS", "false")]));
        check(
            "[audit]\nspool_max_bytes = 1\nretention_days = -1",
            "",
            &[],
            "g:2: `audit.spool_max_bytes` must be a whole number from 1048576 to 1099511627776\n  hint: the default is 1073741824\n\
             g:3: `audit.retention_days` must be a whole number from 0 to 36500\n  hint: the default is 90",
        );
    }
}

//! The users file and the file of rules.

use std::path::Path;

use forebay_broker_adapter::access::{Acl, Action, Fault, Identity, Users, check_user_name};
use forebay_engine::topic;

use crate::text::text;

/// A fault has a place in the text.
fn assert_inside(fault: &Fault, text: &str) {
    let line = text.lines().nth(fault.line - 1).expect("a fault's line is one of the text");
    assert!(fault.column >= 1 && fault.column <= line.chars().count() + 1, "{fault}");
    assert!(!fault.message.is_empty() && fault.to_string().starts_with("fuzz:"));
}

pub(crate) fn users_file(data: &[u8]) {
    let text = text(data);
    match Users::parse(Path::new("fuzz"), text) {
        Ok(users) => {
            let names = users.names();
            assert_eq!(names.len(), users.len());
            for name in names {
                check_user_name(name).expect("a name that is taken");
                let hash = users.get(name).expect("a user has a hash");
                let line = format!("{name}:{}\n", hash.text());
                let again = Users::parse(Path::new("fuzz"), &line).expect("the line as it would be written");
                assert_eq!(again.get(name).map(|hash| hash.text()), Some(hash.text()));
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            faults.iter().for_each(|fault| assert_inside(fault, text));
        }
    }
}

/// Lines: client id, user name, a filter, a topic; then rules.
pub(crate) fn acl_file(data: &[u8]) {
    let text = text(data);
    let mut parts = text.splitn(5, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let (client, user, filter, name, rules) = (next(), next(), next(), next(), next());
    for default in [false, true] {
        let acl = match Acl::parse(Path::new("fuzz"), rules, default) {
            Ok(acl) => acl,
            Err(faults) => {
                assert!(!faults.is_empty());
                faults.iter().for_each(|fault| assert_inside(fault, rules));
                continue;
            }
        };
        let user = (!user.is_empty()).then(|| user.into());
        let identity = Identity { client: client.into(), user };
        if topic::check_filter(filter).is_err() || topic::check_name(name).is_err() {
            continue;
        }
        let _ = acl.may(&identity, Action::Publish, name);
        if topic::matches(filter, name) && acl.may(&identity, Action::Subscribe, filter) {
            assert!(
                acl.may(&identity, Action::Subscribe, name),
                "{filter} is granted and holds {name}, which is denied"
            );
        }
    }
}
